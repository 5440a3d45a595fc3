"""The command line of a QEMU with what is in its drives now: media are changed, and snapshots taken, while it runs.

`-drive` and its shorthands are matched with the entries of `query-block` that have a name, by their order, which is
that of the command line; `-blockdev` by the device that uses its node.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import Any

from workers.qemu import qom
from workers.qemu.command_line import nameless_devices
from workers.qemu.image_options import OF_QCOW2, OF_RAW
from workers.qemu.monitor import Monitor
from workers.qemu.nodes import Tree, on
from workers.qemu.options import (
    FILES,
    FILTERS,
    IMAGES,
    TRUE,
    Option,
    Pairs,
    command_words,
    parse_command_line,
    spelled_out,
    words_of,
    write_options,
)

CD, FLOPPY = (Option(word="-drive", value=value) for value in ("index=2,media=cdrom", "index=0,if=floppy"))
MADE_BY_ITSELF = {"ide1-cd0": CD, "ide2-cd0": CD, "floppy0": FLOPPY}
"""Drives that QEMU makes by itself on pc and q35 (`default_drive` in system/vl.c)."""
INSTEAD_OF_CD = words_of("ide-cd ide-hd scsi-cd scsi-hd")
"""With one of these devices on its command line it makes no CD drive (`default_list` there)."""
OF_ANY_NODE = words_of("node-name read-only auto-read-only discard detect-zeroes cache force-share")
"""What a node has whatever it is, and keeps when it becomes another one."""


_NAMELESS = re.compile(rf"{re.escape(qom.ANONYMOUS)}/device\[(\d+)\](?:/|$)")


@dataclass(frozen=True, kw_only=True)
class Drive:
    """What `query-block` says of one drive."""

    device: str
    qdev: str
    path: str | None
    """None: nothing is in it."""
    format: str
    node: Tree = field(default_factory=dict)
    """What is in it, as `-blockdev` takes it; empty if that cannot be told."""


def as_it_is_now(
    argv: Sequence[str], drives: Sequence[Drive], floppies: Mapping[int, str] = MappingProxyType({})
) -> list[str]:
    """The command line; options whose medium has not changed stay as they are written.

    `floppies` are the types of floppy drives by their numbers.
    """
    said = parse_command_line(argv)
    named = [drive for drive in drives if drive.device]
    options = _with_drives(_with_default_drives(list(said), named), named)
    for drive in drives:
        if not drive.device:
            options = _with_node(options, drive)
    return [argv[0], *command_words(options if options == list(said) else _with_floppies(options, floppies))]


async def floppy_types(monitor: Monitor) -> dict[int, str]:
    """{number of a floppy drive: its type} of all that the guest has."""
    paths = [str(entry.get("qdev")) for entry in await monitor.query("query-block") if entry.get("removable")]
    types = {path: await qom.value(monitor, path, "drive-type") for path in paths}
    return {await qom.value(monitor, path, "unit"): str(kind) for path, kind in types.items() if kind is not None}


def _with_default_drives(options: list[Option], named: Sequence[Drive]) -> list[Option]:
    """With the drives that QEMU makes by itself, after those of its command line: where something is in one, where
    QEMU would not make it, since a disk was plugged in that would have kept it from that, where drives came since,
    or where a floppy drive is among them (`_with_floppies`).
    """
    made = {at: option for at, drive in enumerate(named) if (option := _made_by_itself(drive, options)) is not None}
    no_cd = any(option.driver in INSTEAD_OF_CD for option in options)
    needed = any(named[at].path is not None or (option is CD and no_cd) for at, option in made.items())
    between = any(at < len(named) - len(made) for at in made)
    beside = any(spelled_out(option).get("if") == "floppy" for option in options)
    for place in made if needed or between or beside else ():
        drives = [at for at, option in enumerate(options) if spelled_out(option).name == "drive"]
        at = drives[place] if place < len(drives) else len(options)
        options = [*options[:at], made[place], *options[at:]]
    return options


def _with_floppies(options: Sequence[Option], types: Mapping[int, str]) -> list[Option]:
    """With floppy drives of the types that they have. QEMU makes one that fits what is in it at the start, and takes a
    type for no `-drive if=floppy` (`fdtypeA` of the controller changes nothing, 10.0.2). Devices in JSON are made at
    last, so that others without ids keep their numbers.
    """
    made, devices = list(options), dict[int, Option]()
    for place, option in enumerate(options):
        drive = spelled_out(option)
        if drive.name != "drive" or drive.get("if") != "floppy":
            continue
        number = int(drive.get("index") or min({0, 1} - devices.keys()))
        name = drive.get("id") or f"floppy{number}"
        kept = tuple(pair for pair in drive.pairs() if pair[0] not in {"if", "index", "id"})
        made[place] = Option(word="-drive", value=write_options((*kept, ("if", "none"), ("id", name))))
        said = {"driver": "floppy", "unit": number, "drive": name, "drive-type": types[number]}
        devices[number] = Option(word="-device", value=json.dumps(said))
    if devices and any(option.name in {"machine", "M"} and "q35" in (option.value or "") for option in options):
        fdc = Option(word="-device", value='{"driver": "isa-fdc"}')  # it has one only for drives with `if=floppy`
        return [*made, fdc, *devices.values()]
    return [*made, *devices.values()]


def _made_by_itself(drive: Drive, options: Sequence[Option]) -> Option | None:
    made = MADE_BY_ITSELF.get(drive.device)
    if made is None or any(_may_be(drive.device, spelled_out(option), made) for option in options):
        return None
    return made


def _may_be(name: str, option: Option, made: Option) -> bool:
    """A drive of the command line that QEMU may call as it calls the one that it makes by itself."""
    if option.name != "drive" or option.get("id") is not None:
        return option.name == "drive" and option.get("id") == name
    (_, index), (key, value) = made.pairs()
    return option.get(str(key)) == value and option.get("index") in {None, index}


def _with_drives(options: list[Option], named: Sequence[Drive]) -> list[Option]:
    places = [place for place, option in enumerate(options) if spelled_out(option).name == "drive"]
    pairs = list(zip(places, named, strict=False))
    if len(named) < len(places) or any(spelled_out(options[at]).get("id") not in {None, it.device} for at, it in pairs):
        return options  # some came or went since the start: nothing is guessed
    made = list(options)
    for place, drive in pairs:
        made[place] = _drive(options[place], drive)
    return made


def _drive(option: Option, drive: Drive) -> Option:
    written = spelled_out(option)
    if written.get("snapshot") in TRUE or not _is_changed([written], drive.path):
        return option
    foreign = frozenset() if drive.format == "qcow2" else OF_QCOW2
    kept = tuple(pair for pair in written.pairs() if not _of_image(pair[0] or "", OF_RAW | foreign))
    medium: Pairs = () if drive.path is None else (("file", drive.path), ("format", drive.format))
    return replace(written, value=write_options((*medium, *kept)))


def _is_changed(said: Sequence[Option], path: str | None) -> bool:
    """Whether this file, or none, is in the drive while these options say something else.

    An image that is no file is refused by the name that it was given.
    """
    named = [value.removeprefix("file:") for option in said for value in _images(option)]
    return bool(named) if path is None else path.startswith("/") and path not in named


def _images(option: Option) -> Iterator[str]:
    """What it names as an image; of `-blockdev`, `file` may be the name of a node."""
    keys = {"filename"} if option.name == "blockdev" else {"file", "filename"}
    yield from (value for key, value in option.leaves() if key in keys)


def _of_image(key: str, of_format: Collection[str]) -> bool:
    """It says which image it is, and how that is opened; nothing about the drive."""
    first = key.partition(".")[0]
    return first in {"file", "format", "driver", "backing"} or first in of_format


def _with_node(options: list[Option], drive: Drive) -> list[Option]:
    device = _device(options, drive.qdev)
    if device is None:
        return options
    name = device.get("drive")
    nodes = {option.get("node-name"): option for option in options if option.name == "blockdev"}
    said = list(_chain(name, nodes))
    if (name is not None and not said) or not _is_changed(said, drive.path):
        return options
    if drive.path is None:
        return [one.without("drive") if one is device else one for one in options if one not in said]
    if said and said[0].get("driver") not in FILTERS:
        made = _node(said[0], said[1:], drive)
        return [made if one is said[0] else one for one in options if one not in said[1:]]
    return _with_node_as_it_is(options, device, said, drive) if drive.node else options


def _with_node_as_it_is(
    options: Sequence[Option], device: Option, said: Sequence[Option], drive: Drive
) -> list[Option]:
    """Where the device had nothing in it at the start, or a filter before its image."""
    name = device.get("drive") or drive.node.get("node-name") or _free_name(options)
    made = json.dumps({**on(drive.node, str(drive.path)), "node-name": name})
    with_it = device if said else device.having("drive", name)
    kept = [with_it if one is device else one for one in options if one not in said]
    return [*kept, Option(word="-blockdev", value=made)]


def _free_name(options: Sequence[Option]) -> str:
    taken = {option.get("node-name") for option in options}
    return next(name for number in count() if (name := f"medium{number}") not in taken)


def _device(options: Sequence[Option], qdev: str) -> Option | None:
    """The option that makes it, also where it has no id."""
    if (found := _NAMELESS.match(qdev)) is not None:
        places, number = nameless_devices(options), int(found[1])
        return options[places[number]] if number < len(places) else None
    return next((option for option in options if option.name == "device" and _is(option, qdev)), None)


def _is(device: Option, qdev: str) -> bool:
    name = device.get("id")
    return bool(name) and (qdev == name or qdev.startswith(f"{qom.PERIPHERAL}/{name}/"))


def _file(node: Option, nodes: Mapping[str | None, Option]) -> str | None:
    """The file of a node, of one that it names, or of one that stands in it."""
    if (path := node.get("filename") or node.get("file.filename")) is not None:
        return path
    file = node.tree().get("file") if node.is_json() else node.get("file")
    if isinstance(file, dict):
        return file.get("filename")
    return _file(nodes[file], nodes) if file in nodes else None


def _chain(name: str | None, nodes: Mapping[str | None, Option]) -> Iterator[Option]:
    """The options of the node of this name, and of those below it that have options of their own."""
    while name in nodes:
        yield (node := nodes[name])
        name = next((value for key, value in node.leaves() if key == "file"), None)


def _node(node: Option, below: Sequence[Option], drive: Drive) -> Option:
    """The node on another file; it opens backing files as the image names them."""
    if not node.is_json():
        kept = tuple((key, value) for key, value in node.pairs() if key is not None and not _of_file(key))
        if (node.get("driver") or node.pairs()[0][1]) != drive.format:
            kept = tuple((key, value) for key, value in kept if key.partition(".")[0] in OF_ANY_NODE)
        file = (("driver", drive.format), ("file.driver", "file"), ("file.filename", str(drive.path)))
        return replace(node, value=write_options((*file, *kept)))
    tree: dict[str, Any] = node.tree()
    inner = tree["file"] if isinstance(tree.get("file"), dict) else {}
    if below and below[0].is_json():
        inner = below[0].tree()
    file_node = {**_kept(inner, FILES), "driver": "file", "filename": drive.path}
    kept_tree = _kept(tree, {drive.format})
    return replace(node, value=json.dumps({"driver": drive.format, **kept_tree, "file": file_node}))


def _kept(tree: Mapping[str, Any], drivers: Collection[str]) -> dict[str, Any]:
    """Of a node that was of one of these kinds all but its image, else what any node has."""
    if tree.get("driver") in drivers:
        return {key: value for key, value in tree.items() if not _of_file(key)}
    return {key: value for key, value in tree.items() if key in OF_ANY_NODE}


def _of_file(key: str) -> bool:
    return key in {"driver", "file", "filename", "backing"} or key.startswith(("file.", "backing."))


def without_left_backing(argv: Sequence[str], used: Collection[str]) -> list[str]:
    """The command line without nodes as backing files that are none any more: they were streamed into the image above.

    That names by itself what it lies on now.
    """
    options = parse_command_line(argv)
    gone = {option.get("node-name") for option in options if option.name == "blockdev"} - {*used}
    kept = (
        option.without("backing") if option.name == "blockdev" and option.get("backing") in gone else option
        for option in options
    )
    return [argv[0], *command_words(kept)]


def unused_nodes(argv: Sequence[str], used: Collection[str]) -> list[Option]:
    """The options for nodes of block devices that nothing is on any more: a disk was unplugged, its node was left."""
    left, unused = list(parse_command_line(argv)), list[Option]()
    while more := [option for option in left if _is_unused(option, left, used)]:
        left = [option for option in left if option not in more]
        unused += more
    return unused


def _is_unused(option: Option, options: Sequence[Option], used: Collection[str]) -> bool:
    """No drive is on it, and nothing else names it."""
    name = option.get("node-name")
    if option.name != "blockdev" or name is None or name in used:
        return False
    return not any(value == name for other in options if other is not option for _, value in other.leaves())


def opened_read_only(argv: Sequence[str], paths: Collection[str]) -> list[str]:
    """The command line with these files opened for nothing but reading: QEMU may only do so by itself so far."""
    options = [_read_only(option, paths) for option in parse_command_line(argv)]
    return [argv[0], *command_words(options)]


def _read_only(option: Option, paths: Collection[str]) -> Option:
    nodes = {option.get("node-name"): option}
    if option.name != "blockdev" or _file(option, nodes) not in paths:
        return option
    if not option.is_json():
        kept = tuple(pair for pair in option.pairs() if (pair[0] or "").rpartition(".")[2] not in _WRITABLE)
        return replace(option, value=write_options((*kept, ("read-only", "on"))))
    return replace(option, value=json.dumps({**_without(option.tree()), "read-only": True}))


_WRITABLE = {"read-only", "auto-read-only"}


def _without(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if key not in _WRITABLE
    }


def without_backing_files(argv: Sequence[str]) -> list[str]:
    """The command line with disks that hold all by themselves, without the nodes of their backing files."""
    unused = unused_nodes(argv, ())
    alone = [argv[0], *command_words(_alone(option) for option in parse_command_line(argv))]
    gone = [option for option in unused_nodes(alone, ()) if option not in unused]
    return [argv[0], *command_words(option for option in parse_command_line(alone) if option not in gone)]


def _alone(option: Option) -> Option:
    if option.name not in IMAGES or option.read_only:
        return option
    if not option.is_json():
        pairs = option.pairs()
        kept = tuple(pair for pair in pairs if pair[0] != "backing" and not (pair[0] or "").startswith("backing."))
        return option if kept == pairs else replace(option, value=write_options(kept))
    tree = option.tree()
    return option if tree.get("backing") is None else replace(option, value=json.dumps({**tree, "backing": None}))
