"""Paths of host files on a command line that say where they are only together with something else: relative ones."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from workers.qemu import json_text
from workers.qemu.options import (
    CHANNELS_AND_DISPLAYS,
    NETWORKS,
    PLAIN,
    SHORTHANDS,
    Option,
    leaf,
    parse_command_line,
    words_of,
    write_options,
)

Change = Callable[[str], str]

_WHOLE = (PLAIN | words_of("chroot readconfig")) - words_of("bios")
_KEYS = {
    "drive": words_of("file filename"),
    "blockdev": words_of("filename"),
    "chardev": words_of("path logfile"),
    "object": words_of("mem-path filename file dir path"),
    "device": words_of("file"),
    "fw_cfg": words_of("file"),
    "smbios": words_of("file path"),
    "trace": words_of("file events"),
    "run-with": words_of("chroot"),
    "spice": words_of("x509-dir x509-key-file x509-cert-file x509-cacert-file x509-dh-key-file"),
    **dict.fromkeys(("machine", "M"), words_of("kernel initrd shim dtb")),
    **dict.fromkeys(NETWORKS, words_of("path script downscript helper")),
    **dict.fromkeys(("audiodev", "audio"), words_of("path")),
}
"""Of `-blockdev`, `file` is the name of a node."""
_LISTS = words_of("file data")
"""Keys of `-acpitable`: several paths with colons between them."""
_IN_A_TREE = words_of("filename path logfile mem-path dir")
_SEARCHED: Mapping[str, frozenset[str | None]] = {
    "device": frozenset({"romfile"}),
    "option-rom": frozenset({None, "romfile"}),
    "boot": frozenset({"splash"}),
    **dict.fromkeys(("machine", "M"), frozenset({"firmware"})),
}
"""Names that QEMU also looks for in folders of its own, if nothing of that name is where it was started."""
_CHANNEL = re.compile(r"((?:mon:)?(?:unix|file|pipe):)(.+)", re.DOTALL)
_NO_FILE = re.compile(r"$|@|(?!file:)[a-z][a-z0-9+.-]*:")
_PLAIN_PATH = re.compile(r"/(?!(.*/)?\.{0,2}(/|$))", re.DOTALL)
"""From the root, not up again, and nothing in it that says nothing (`//`, `/./`)."""


def changed(argv: Sequence[str], change: Change, *, searched: Change = str) -> list[str]:
    """The command line with each path as `change` has it that is relative, goes up again (`..`), or has `//` in it.

    Args:
        argv: the whole of it.
        change: answers the path to write.
        searched: the same for names that QEMU also looks for in folders of its own.
    """
    words = list(argv[:1])
    for option in parse_command_line(argv):
        edited = _edited_searched(_edited(option, _careful(change)), _careful(searched))
        words += (edited if edited.value != option.value else option).words()
    return words


def is_no_file(name: str) -> bool:
    """Nothing, an abstract socket, or another protocol than that of files: `nbd:...`, `json:...`."""
    return _NO_FILE.match(name) is not None


def relative(argv: Sequence[str]) -> list[str]:
    """The relative paths of a command line, without those that QEMU also looks for elsewhere."""
    found: dict[str, None] = {}

    def note(path: str) -> str:
        if not path.startswith("/"):
            found[path] = None
        return path

    changed(argv, note)
    return list(found)


def _careful(change: Change) -> Change:
    def unless_plain(value: str) -> str:
        bare = value.removeprefix("file:")
        return value if is_no_file(value) or _PLAIN_PATH.match(bare) else change(bare)

    return unless_plain


def _edited(option: Option, change: Change) -> Option:
    value = option.value
    if value is None or option.is_on("abstract"):
        return option
    if option.name in _WHOLE:
        return replace(option, value=change(value))
    if option.name in SHORTHANDS:
        return replace(option, value=_value(value, change))
    if option.is_json():
        return replace(option, value=_json(value, _KEYS.get(option.name, frozenset()), change))
    if option.name in CHANNELS_AND_DISPLAYS:
        return _pairs(option, lambda key, text: _channel(text, change) if key in {None, "vnc"} else text)
    keys = _KEYS.get(option.name, frozenset())
    if option.name in NETWORKS:
        keys -= {key for key, text in option.pairs() if key is not None and text == "no"}  # no script
    if option.name == "acpitable":
        return _pairs(option, lambda key, text: _list(text, change) if key in _LISTS else text)
    return _pairs(option, lambda key, text: _value(text, change) if key is not None and leaf(key) in keys else text)


def _list(text: str, change: Change) -> str:
    return ":".join(map(change, text.split(":")))


def _edited_searched(option: Option, change: Change) -> Option:
    keys = _SEARCHED.get(option.name)
    if option.value is None or (keys is None and option.name != "bios"):
        return option
    if keys is None:
        return replace(option, value=change(option.value))
    if option.is_json():
        return replace(option, value=_json(option.value, keys, change))
    return _pairs(option, lambda key, text: change(text) if key in keys else text)


def _pairs(option: Option, edit: Callable[[str | None, str], str]) -> Option:
    before = option.pairs()
    after = tuple((key, edit(key, text)) for key, text in before)
    return option if after == before else replace(option, value=write_options(after))


def _channel(text: str, change: Change) -> str:
    found = _CHANNEL.fullmatch(text)
    return found[1] + change(found[2]) if found else text


def _value(text: str, change: Change) -> str:
    return _json(text, _IN_A_TREE, change, "json:") if text.startswith("json:") else change(text)


def _json(text: str, keys: Collection[str | None], change: Change, prefix: str = "") -> str:
    before = json_text.loads(text.removeprefix(prefix))
    after = _tree(before, keys, change)
    return text if after == before else prefix + json.dumps(after, ensure_ascii=False)


def _tree(tree: Any, keys: Collection[str | None], change: Change) -> Any:
    if isinstance(tree, list):
        return [_tree(part, keys, change) for part in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: change(part) if leaf(key) in keys and isinstance(part, str) else _tree(part, keys, change)
        for key, part in tree.items()
    }
