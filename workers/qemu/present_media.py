"""The command line of a QEMU with what is in its drives now: media are changed, and snapshots taken, while it runs.

`-drive` and its shorthands are matched with the entries of `query-block` that have a name, by their order, which is
that of the command line; `-blockdev` by the device that uses its node.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workers.qemu import qom
from workers.qemu.command_line import nameless_devices
from workers.qemu.image_options import OF_QCOW2, OF_RAW
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

DEFAULT_CDS = words_of("ide1-cd0 ide2-cd0")
"""Names of the CD drive that QEMU makes by itself on pc and q35 (`default_drive` in system/vl.c)."""
INSTEAD_OF_CD = words_of("ide-cd ide-hd scsi-cd scsi-hd")
"""With one of these devices on its command line it makes none (`default_list` there)."""
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


def as_it_is_now(argv: Sequence[str], drives: Sequence[Drive]) -> list[str]:
    """The command line; options whose medium has not changed stay as they are written."""
    named = [drive for drive in drives if drive.device]
    options = _with_drives(_with_default_cd(list(parse_command_line(argv)), named), named)
    for drive in drives:
        if not drive.device:
            options = _with_node(options, drive)
    return [argv[0], *command_words(options)]


def _with_default_cd(options: list[Option], named: Sequence[Drive]) -> list[Option]:
    """With the CD drive that QEMU makes by itself, where something is in it, or where QEMU would not make it: since the
    start a disk was plugged in that would have kept it from that.
    """
    place = next((at for at, drive in enumerate(named) if drive.device in DEFAULT_CDS), None)
    if place is None or any(_is_a_cd(spelled_out(option)) for option in options):
        return options
    if named[place].path is None and not any(option.driver in INSTEAD_OF_CD for option in options):
        return options
    drives = [at for at, option in enumerate(options) if spelled_out(option).name == "drive"]
    at = drives[place] if place < len(drives) else len(options)
    return [*options[:at], Option(word="-drive", value="index=2,media=cdrom"), *options[at:]]


def _is_a_cd(option: Option) -> bool:
    """A drive of the command line that QEMU may call as it calls the one that it makes by itself."""
    return option.name == "drive" and option.get("media") == "cdrom" and option.get("id") is None


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
    node = device.get("drive") if device is not None else None
    nodes = {option.get("node-name"): option for option in options if option.name == "blockdev"}
    if device is None or node not in nodes or nodes[node].get("driver") in FILTERS:
        return options
    below = _below(nodes[node], nodes)
    if not _is_changed([nodes[node], *below], drive.path):
        return options
    if drive.path is None:
        gone = [nodes[node], *below]
        return [one.without("drive") if one is device else one for one in options if one not in gone]
    made = _node(nodes[node], below, drive)
    return [made if one is nodes[node] else one for one in options if one not in below]


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


def _below(node: Option, nodes: Mapping[str | None, Option]) -> list[Option]:
    """The node of its file, where that has an option of its own."""
    file = node.tree().get("file") if node.is_json() else node.get("file")
    return [nodes[file]] if isinstance(file, str) and file in nodes else []


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


def without_backing_files(argv: Sequence[str], paths: Collection[str]) -> list[str]:
    """The command line without the nodes of these files: each image holds all by itself."""
    options = parse_command_line(argv)
    nodes = {option.get("node-name"): option for option in options if option.name == "blockdev"}
    gone = {name for name, node in nodes.items() if _file(node, nodes) in paths}
    kept = [
        _alone(option, gone) for option in options if option.name != "blockdev" or option.get("node-name") not in gone
    ]
    return [argv[0], *command_words(kept)]


def _alone(option: Option, gone: Collection[str | None]) -> Option:
    if option.name not in IMAGES:
        return option
    if not option.is_json():
        pairs = option.pairs()
        kept = tuple(pair for pair in pairs if pair[0] != "backing" and not (pair[0] or "").startswith("backing."))
        return option if kept == pairs else replace(option, value=write_options(kept))
    tree = option.tree()
    backing = tree.get("backing")
    if backing is None or (isinstance(backing, str) and backing not in gone):
        return option
    return replace(option, value=json.dumps({**tree, "backing": None}))
