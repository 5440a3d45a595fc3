"""The command line of a guest's next QEMU, derived from that of its present one.

`/proc/PID/cmdline` is the only complete description of a plain QEMU guest, so the destination is
started from it. What may differ is what belongs to the host: the binary, the paths below the
host's root, and `-S -incoming defer`. Everything the guest can see stays as it was written, in
the order it was written: QEMU names implicit devices (`-hda`, `-drive if=virtio`) and assigns
PCI slots by that order, the same way every time.

Nothing here touches a host. Whether the derived line works is proven by starting it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from workers.qemu import json_text
from workers.qemu.options import (
    CHANNELS,
    DROPPED,
    GUEST_KEYS,
    GUEST_TEXT,
    IMAGES,
    PLAIN,
    STANDARD_STREAMS,
    TRUE,
    Option,
    command_words,
    leaf,
    parse_command_line,
    spelled_out,
    write_options,
)

Relocate = Callable[[str], str]


def destination_command_line(
    argv: Sequence[str],
    *,
    machine_type: str,
    source_root: str,
    destination_root: str,
    qemu: str,
    image_paths: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
) -> list[str]:
    """The argv that rebuilds the machine at the destination, waiting for its memory.

    A root of "/" at the source leaves every path as it is. `image_paths` (source path to
    destination path) overrides the roots for the images it names. `more` stands at its end.

    `-only-migratable` is left out on purpose: it would stay with the guest for good and refuse
    every later hot-plug of a device that cannot migrate; `blocked-reasons` lists such devices before the move.
    """
    relocate = _relocation(source_root, destination_root, image_paths or {})
    options = [spelled_out(option) for option in parse_command_line(argv) if option.name not in DROPPED]
    options = [_without_waiting(_without_cache_drop(relocated(option, relocate))) for option in options]
    options = _pinned(options, machine_type)
    if not any(option.name == "msg" and "timestamp" in (option.value or "") for option in options):
        options.append(Option(word="-msg", value="timestamp=on"))
    return [qemu, *command_words(options), *more, "-S", "-incoming", "defer"]


def _relocation(source_root: str, destination_root: str, image_paths: Mapping[str, str]) -> Relocate:
    """A path is recognised where it begins: not in the middle of another path or word."""
    root, new_root = source_root.rstrip("/"), destination_root.rstrip("/")
    begins = re.compile(rf"(?<![\w./-]){re.escape(root)}(?=/|$|[\s,:;\"'])")

    def relocate(text: str) -> str:
        bare = text.removeprefix("file:")
        if bare in STANDARD_STREAMS:
            return text.removesuffix(bare) + "/dev/null"  # nobody is there any more who reads them
        if bare in image_paths:
            return text.removesuffix(bare) + image_paths[bare]
        return begins.sub(lambda _: new_root, text) if root else text

    return relocate


def relocated(option: Option, relocate: Relocate) -> Option:
    """An option with each path in it as `relocate` has it."""
    if option.value is None or option.name in GUEST_TEXT:
        return option
    if option.name in PLAIN:
        return replace(option, value=relocate(option.value))
    if option.is_json():
        return _edit_json(option, lambda tree: _relocated_tree(tree, relocate))
    pairs = tuple((key, _relocated_value(key, value, relocate)) for key, value in option.pairs())
    return replace(option, value=write_options(pairs))


def _relocated_value(key: str | None, value: str, relocate: Relocate) -> str:
    if key is not None and leaf(key) in GUEST_KEYS:
        return value
    if value.startswith("json:"):
        return "json:" + json.dumps(_relocated_tree(json_text.loads(value.removeprefix("json:")), relocate))
    return relocate(value)


def _relocated_tree(tree: Any, relocate: Relocate) -> Any:
    if isinstance(tree, dict):
        return {key: value if key in GUEST_KEYS else _relocated_tree(value, relocate) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_relocated_tree(value, relocate) for value in tree]
    return relocate(tree) if isinstance(tree, str) else tree


def _edit_json(option: Option, edit: Callable[[Any], Any]) -> Option:
    """Rewrite only when something changed, so that an untouched option stays as it was written."""
    before = json_text.loads(option.value or "null")
    after = edit(before)
    return option if after == before else replace(option, value=json.dumps(after))


def _without_cache_drop(option: Option) -> Option:
    """Set `drop-cache=off` on every host file of a `-drive` or `-blockdev`.

    The NBD server that wrote the image and this QEMU share one host's page cache, so throwing it
    away at activation protects nothing and costs 26 ms of downtime (measured on 10.0.2).
    """
    if option.name not in IMAGES or option.value is None:
        return option
    if option.is_json():
        return _edit_json(option, _keep_cache_in_tree)
    pairs = option.pairs()
    for prefix in _file_nodes(option):
        key = f"{prefix}.drop-cache" if prefix else "drop-cache"
        pairs = (*(pair for pair in pairs if pair[0] != key), (key, "off"))
    if option.name == "drive":
        pairs = tuple((key, _keep_cache_in_json_name(value)) for key, value in pairs)
    return replace(option, value=write_options(pairs))


def waits(option: Option) -> bool:
    """A channel that listens and waits for its first client, as it does by default: QEMU does nothing else then."""
    if option.name not in CHANNELS | {"chardev"} or option.is_json() or not option.listens:
        return False
    said = [pair for pair in option.pairs() if _of_waiting(pair)]
    return not said or said[-1] == (None, "wait") or (said[-1][0] is not None and said[-1][1] in TRUE)


def _of_waiting(pair: tuple[str | None, str]) -> bool:
    return pair[0] == "wait" or pair in {(None, "wait"), (None, "nowait")}


def _without_waiting(option: Option) -> Option:
    if not waits(option):
        return option
    kept = tuple(pair for pair in option.pairs() if not _of_waiting(pair))
    return replace(option, value=write_options((*kept, ("wait", "off"))))


def _file_nodes(option: Option) -> list[str]:
    """Prefixes of the nodes whose driver is `file`: "" for the top, "file" for `file.driver=file`.

    `-drive` may leave the driver out: a file name alone means `file` for the node below.
    """
    named = {key if key is not None else "driver": value for key, value in option.pairs()}
    drivers = [key for key, value in named.items() if leaf(key) == "driver" and value == "file"]
    prefixes = {key.rpartition(".")[0] for key in drivers}
    if option.name == "drive" and "" not in prefixes and "file.driver" not in named:
        bare = named.get("file", "")
        if (bare and not bare.startswith("json:")) or "file.filename" in named:
            prefixes.add("file")
    return sorted(prefixes)


def _keep_cache_in_tree(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    tree = {key: _keep_cache_in_tree(value) for key, value in tree.items()}
    return {**tree, "drop-cache": False} if tree.get("driver") == "file" else tree


def _keep_cache_in_json_name(value: str) -> str:
    if not value.startswith("json:"):
        return value
    return "json:" + json.dumps(_keep_cache_in_tree(json_text.loads(value.removeprefix("json:"))))


def _pinned(options: Sequence[Option], machine_type: str) -> list[Option]:
    """The resolved machine type in place of an alias (`q35`), which every QEMU reads differently."""
    pinned = [_pinned_option(option, machine_type) for option in options]
    if any(_names_a_type(option) for option in pinned):
        return pinned
    return [Option(word="-machine", value=machine_type), *pinned]


def _names_a_type(option: Option) -> bool:
    if option.name not in {"machine", "M"}:
        return False
    pairs = option.pairs()
    return any(key == "type" for key, _ in pairs) or (bool(pairs) and pairs[0][0] is None)


def _pinned_option(option: Option, machine_type: str) -> Option:
    if not _names_a_type(option):
        return option
    pairs = tuple(
        (key, machine_type if key == "type" or (key is None and index == 0) else value)
        for index, (key, value) in enumerate(option.pairs())
    )
    return replace(option, value=write_options(pairs))


def listening_sockets(argv: Sequence[str]) -> list[str]:
    """Unix sockets that a QEMU with this command line makes and listens on."""
    return [path for option in parse_command_line(argv) if (path := _socket(option)) and option.listens]


def _socket(option: Option) -> str | None:
    """`-qmp unix:PATH,...` and the like, or `-chardev socket,path=PATH,...`."""
    first = next(iter(option.pairs()), (None, ""))[1]
    if first.startswith("unix:"):
        return first.removeprefix("unix:")
    return option.get("path") if (option.name, first) == ("chardev", "socket") else None


def device_ids(argv: Sequence[str]) -> set[str]:
    """The ids given to `-device`, and the one that QEMU itself gives to a device that it makes for an option."""
    options = parse_command_line(argv)
    found = {option.get("id") for option in options if option.name == "device"}
    made = {option.name for option in options if option.name == "debugcon"}
    return made | {identifier for identifier in found if identifier}


def nameless_devices(options: Sequence[Option]) -> list[int]:
    """The places of the options that make `/machine/peripheral-anon/device[N]`, by N: `-device` without an id, and
    `-drive if=virtio`, for which QEMU adds a virtio-blk.

    It makes the devices of drives after others, and those in JSON at last (`qemu_create_cli_devices`, 10.0).
    """
    found = [place for place, option in enumerate(options) if makes_device(option) or _is_nameless(option)]
    return sorted(found, key=lambda place: 2 if options[place].is_json() else makes_device(options[place]))


def _is_nameless(option: Option) -> bool:
    return option.name == "device" and not option.get("id")


def makes_device(option: Option) -> bool:
    """QEMU itself makes the device of this drive."""
    return option.name == "drive" and option.get("if") == "virtio"
