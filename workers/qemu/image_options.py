"""The options of an image on a command line, for an image of another format, or on a block device.

Only images that become something else are touched; every other option stays as it was written.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workers.qemu.json_text import flat, loads, spelled
from workers.qemu.options import FILES, IMAGES, Option, command_words, leaf, parse_command_line, words_of, write_options

OF_QCOW2 = words_of(
    "lazy-refcounts pass-discard-request pass-discard-snapshot pass-discard-other discard-no-unref overlap-check "
    "cache-size l2-cache-size l2-cache-entry-size refcount-cache-size cache-clean-interval backing data-file encrypt"
)
OF_RAW = words_of("offset size")
OF_FILE = words_of(
    "filename aio aio-max-batch locking pr-manager drop-cache x-check-cache-dropped dynamic-auto-read-only"
)
"""Options of the node that holds the file, where it has no format above it."""
OF_BOTH = words_of("discard cache auto-read-only read-only")

Node = dict[str, Any]
"""{dotted key: value}, in the order of the command line."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What an image is at the destination."""

    format: str
    device: bool
    size_bytes: int
    """Of the guest's disk: a raw block device may be larger, and the guest must not see that."""


def fitted(argv: Sequence[str], images: Mapping[str, Fit]) -> list[str]:
    """The command line with the options of these images, by their paths, as what they are."""
    options = list(parse_command_line(argv))
    referred = {reference: index for index, option in enumerate(options) for reference in _references(option)}
    for index, option in enumerate(options):
        if option.name not in IMAGES:
            continue
        for path, fit in images.items():
            place = _place(_read(options[index]), path)
            if place is None:
                continue
            options[index] = _edited(options[index], place, fit, alone=_name(option) not in referred)
            if place == "" and (above := referred.get(_name(option))) is not None:
                options[above] = _written(options[above], _with_format(_read(options[above]), "", fit, "driver"))
    return [argv[0], *command_words(options)]


def _references(option: Option) -> Iterator[str]:
    """Names of the nodes that a format node is put on."""
    if option.name == "blockdev":
        value = _read(option).get("file")
        if isinstance(value, str):
            yield value


def _name(option: Option) -> str:
    return str(_read(option).get("node-name", ""))


def _place(node: Node, path: str) -> str | None:
    """Prefix of the node with this file: "" for the top, `file` where `file.filename=` or `file=` names it."""
    for key, value in node.items():
        if leaf(key) == "filename" and value == path:
            return key.rpartition(".")[0]
        if leaf(key) == "file" and isinstance(value, str) and value.removeprefix("file:") == path:
            return key
    return None


def _edited(option: Option, place: str, fit: Fit, *, alone: bool) -> Option:
    node = _read(option)
    driver = f"{place}.driver" if place else "driver"
    if place and place in node and option.name == "drive" and not any(key.startswith(f"{place}.") for key in node):
        return _written(option, _with_format(node, place.rpartition(".")[0], fit, _format_key(node)))
    if node.get(driver) in FILES:
        node[driver] = "host_device" if fit.device else "file"
    if place:
        above = place.rpartition(".")[0]
        return _written(option, _with_format(node, above, fit, _format_key(node) if above == "" else "driver"))
    if alone and (fit.format != "raw" or fit.device):
        node = _with_format(_under_a_format(node), "", fit, "driver")
    return _written(option, node)


def _format_key(node: Node) -> str:
    return "driver" if "driver" in node else "format"


def _with_format(node: Node, place: str, fit: Fit, key: str) -> Node:
    """The node at this place with the format's driver and options."""
    prefix = f"{place}." if place else ""
    if prefix + key not in node and f"{prefix}driver" in node:
        key = "driver"
    foreign = OF_RAW if fit.format != "raw" else OF_RAW | OF_QCOW2
    made = {
        name: value
        for name, value in node.items()
        if not (name.startswith(prefix) and name[len(prefix) :].partition(".")[0] in foreign)
    }
    made[prefix + key] = fit.format
    if fit.format == "raw" and fit.device:
        made[f"{prefix}size"] = fit.size_bytes
    return made


def _under_a_format(node: Node) -> Node:
    """A file that the guest's device was put on without a format, with room for one above it."""
    made: Node = {"driver": ""}
    for name, value in node.items():
        first = name.partition(".")[0]
        if first == "driver" or first in OF_FILE:
            made[f"file.{name}"] = value
        else:
            made[name] = value
            if first in OF_BOTH:
                made[f"file.{name}"] = value
    return made


def _read(option: Option) -> Node:
    if option.is_json():
        return dict(flat(option.tree()))
    node: Node = {}
    for key, value in option.pairs():
        if value.startswith("json:"):
            prefix = f"{key}." if key else ""
            node |= {f"{prefix}{name}": inner for name, inner in flat(loads(value.removeprefix("json:")))}
        else:
            node[key if key is not None else ("driver" if option.name == "blockdev" else value)] = value
    return node


def _written(option: Option, node: Node) -> Option:
    if option.is_json():
        return replace(option, value=json.dumps(_tree(node)))
    bare = {value for key, value in option.pairs() if key is None and option.name != "blockdev"}
    pairs = tuple((None if name in bare else name, spelled(value)) for name, value in node.items())
    return replace(option, value=write_options(pairs))


def _tree(node: Node) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in node.items():
        *above, last = name.split(".")
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return tree
