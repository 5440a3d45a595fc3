"""What a machine is made of, read from QMP replies: its devices, its memory blocks, its disks.

QEMU itself never notices an extra device, another MAC or a missing CPU flag at the destination,
and a missing device only inside the blackout (reference/qemu.md 7.2). So both sides' `info qtree`
and `x-query-ramblock` are reduced to what must be equal and compared before anything starts.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.qemu.command_line import anonymous_devices, device_ids

Reply = Mapping[str, Any]

_FIRMWARE = {"MCFG", "busnr", "smb_io_base"}
"""Set by the firmware: a machine that waits for its state has not run any."""

_GEOMETRY = {"cyls", "heads", "secs", "lcyls", "lheads", "lsecs"}
"""Guessed from the partition table in the image's first sector, which may not be copied yet.
Geometry given on the command line is carried over by the command line."""

_VOLATILE = _FIRMWARE | _GEOMETRY
_HOST_PATHS = ("chardev", "filename", "path", "logfile", "mem-path")


def normalise_qtree(text: str) -> tuple[str, ...]:
    """The lines of `info qtree` that must be equal on both sides, each with the place it stands in.

    A line reads `main-system-bus/q35-pcihost/pcie.0/virtio-net-pci "net0" addr 05.0: mac = "..."`,
    so that a difference names its device without context.
    """
    lines: list[str] = []
    stack: list[tuple[int, str]] = []
    for number_of, indent, content in _numbered(text):
        while stack and stack[-1][0] >= indent:
            stack.pop()
        place = "/".join(name for _, name in stack)
        if content.startswith(("bus: ", "dev: ")):
            name = _name(content) + number_of
            stack.append((indent, name))
            lines.append(f"{place}/{name}" if place else name)
        elif (kept := _property(content)) is not None:
            lines.append(f"{place}: {kept}")
    return tuple(lines)


def _numbered(text: str) -> Iterator[tuple[str, int, str]]:
    """(suffix, indent, content) per line; the suffix tells equal anonymous siblings apart: `#2`."""
    seen: dict[tuple[int, str], int] = {}
    for line in text.replace("\r", "").splitlines():
        content = line.strip()
        indent = len(line) - len(line.lstrip())
        if not content:
            continue
        if not content.startswith(("bus: ", "dev: ")):
            yield "", indent, content
            continue
        seen = {key: count for key, count in seen.items() if key[0] <= indent}
        seen[indent, content] = seen.get((indent, content), 0) + 1
        count = seen[indent, content]
        yield (f"#{count}" if count > 1 else ""), indent, content


def _name(content: str) -> str:
    kind, _, rest = content.partition(": ")
    if kind == "bus":
        return rest
    driver, _, identifier = rest.partition(", id ")
    return driver if identifier in {"", '""'} else f"{driver} {identifier}"


def _property(content: str) -> str | None:
    """One property as it must be equal on both sides; None if it may differ."""
    bar = re.fullmatch(r"bar (\d+): (mem|i/o) at 0x([0-9a-f]+) \[0x([0-9a-f]+)\]", content)
    if bar:
        # An unmapped BAR is shown at 2^64-1; its size survives the arithmetic modulo 2^64.
        size = (int(bar[4], 16) - int(bar[3], 16) + 1) % 2**64
        return f"bar {bar[1]}: {bar[2]} of {size} bytes"
    if content.startswith("mmio "):
        return "mmio of " + content.rpartition("/")[2].lstrip("0") + " bytes (hex)"
    if content.startswith("class "):
        return re.sub(r"addr [0-9a-f]+:", "addr *:", content)  # the bus number is the firmware's
    name, equals, value = content.partition(" = ")
    if not equals:
        return _status(content)
    if (name, value.partition(" ")[0]) == ("rombar", "-1"):
        return "rombar = 1"  # from 10.0 the default is "auto", which is what 1 was before
    if name in _VOLATILE or (name in _HOST_PATHS and "/" in value):
        return None
    return f"{name} = {_value(value)}"


def _status(content: str) -> str | None:
    """A line of a bus's own: without what the guest's drivers decide, and without inner wiring.

    The guest numbers USB devices and opens serial ports; `gpio-` lines differ between QEMUs.
    """
    if content.startswith("gpio-"):
        return None
    content = re.sub(r"^addr \d+\.\d+, ", "", content)
    return re.sub(r", (attached|guest (on|off), host (on|off), throttle (on|off))$", "", content)


def _value(value: str) -> str:
    """A value without its second notation, and without the numbers QEMU makes up for nodes."""
    return re.sub(r"#block\d+", "#block", re.sub(r"(?<=\d) \([^()]*\)$", "", value))


def normalise_ramblocks(text: str) -> tuple[str, ...]:
    """`x-query-ramblock` without host addresses: name, page size, used and total length.

    Sorted: the order depends on the order of registration, which migration does not care about.
    `Used` of the ACPI tables grows when the guest's firmware asks for them, so only the total
    counts for blocks QEMU may resize (`/rom@...`). Offsets are QEMU's own bookkeeping, and 7.2 has no
    column for read-only.
    """
    rows = [line.split() for line in text.replace("\r", "").splitlines()[1:] if line.strip()]
    return tuple(sorted(_ramblock(row) for row in rows))


def _ramblock(row: Sequence[str]) -> str:
    name, page = row[0], " ".join(row[1:3])
    used, total = int(row[4], 16), int(row[5], 16)
    length = f"{total} bytes" if name.startswith("/rom@") else f"{used} of {total} bytes"
    return f"{name}: pages of {page}, {length}"


def differences(
    source: Sequence[str], destination: Sequence[str], limit: int = 5, *, same_version: bool = True
) -> list[str]:
    """What only one side has, as sentences, at most `limit` of them and then how many more.

    Between versions of QEMU (`same_version=False`) a property that the other side's device does
    not have at all is no difference; the device and every property known to both still count.
    """
    only_source, only_destination = Counter(source), Counter(destination)
    only_source.subtract(destination)
    only_destination.subtract(source)
    left, right = sorted((+only_source).elements()), sorted((+only_destination).elements())
    if not same_version:
        left, right = _known_to_both(left, destination), _known_to_both(right, source)
    found = list(_sentences(left, right))
    more = len(found) - limit
    return found if more <= 0 else [*found[:limit], f"and {more} more differences"]


def _key(line: str) -> str:
    return line.partition(" = ")[0]


def _known_to_both(lines: Iterable[str], other: Sequence[str]) -> list[str]:
    known = {_key(line) for line in other}
    return [line for line in lines if " = " not in line or _key(line) in known]


def _sentences(left: Sequence[str], right: Sequence[str]) -> Iterator[str]:
    """Devices first; a device missing on one side makes its properties no news."""
    counterpart = {_key(line): line for line in right if " = " in line}
    paired = {_key(line) for line in left} & set(counterpart)
    for line in _without_children(left):
        if _key(line) in paired:
            yield f"{line} at the source, {counterpart[_key(line)].partition(' = ')[2]} at the destination"
        else:
            yield f"only at the source: {line}"
    for line in _without_children(right):
        if _key(line) not in paired:
            yield f"only at the destination: {line}"


def _without_children(lines: Sequence[str]) -> list[str]:
    devices = {line for line in lines if ": " not in line}
    inside = tuple(device + end for device in devices for end in ("/", ": "))
    return sorted((line for line in lines if not line.startswith(inside)), key=lambda line: line not in devices)


@dataclass(frozen=True, kw_only=True)
class SourceDisk:
    """One writable disk of a running guest: all that is needed to create its copy and mirror it."""

    index: int
    """Position among the writable disks in `query-block`, which keeps the command line's order."""
    device: str
    """What `blockdev-mirror` takes as `device`: the node below any mirror filter. QEMU accepts its
    made-up names (`#block123`) here, but makes up others in every process."""
    qdev: str
    """The guest device's id or QOM path."""
    node: str
    """The node with the image format; the same as `device` for now, since filters are refused."""
    file_node: str | None
    """The protocol node below it."""
    format: str
    path: str
    virtual_size_bytes: int
    cluster_size_bytes: int | None
    create_options: dict[str, str]
    """For `qemu-img create -o`, such as `cluster_size=65536`; empty for raw."""

    @property
    def create_option_string(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.create_options.items())


@dataclass(frozen=True, kw_only=True)
class _Medium:
    """One entry of `query-block` with an image in it, seen through our own mirror filter."""

    device: str
    qdev: str
    inserted: Reply
    file_node: str | None
    path: str

    @property
    def image(self) -> Reply:
        image: Reply = self.inserted["image"]
        return image

    @property
    def specific(self) -> Reply:
        data: Reply = self.image.get("format-specific", {}).get("data", {})
        return data

    @property
    def shown(self) -> str:
        return f"disk {self.device or self.qdev} ({self.path})"


def _media(
    query_block: Sequence[Reply], named_block_nodes: Sequence[Reply], blockstats: Sequence[Reply]
) -> list[_Medium]:
    """`query-block` shows the topmost node; while a mirror runs that is its filter (`mirror_top`).

    Only `query-blockstats` says what lies below a node (10.0 has no `children` elsewhere).
    """
    nodes = {node["node-name"]: node for node in named_block_nodes}
    below = {entry.get("qdev") or entry.get("device"): entry for entry in blockstats}
    found = []
    for entry in query_block:
        if "inserted" in entry:
            stats = below.get(entry.get("qdev") or entry.get("device"), {})
            found.append(_medium(entry, nodes, stats))
    return found


def _medium(entry: Reply, nodes: Mapping[str, Reply], stats: Reply) -> _Medium:
    inserted: Reply = entry["inserted"]
    while inserted["drv"] == "mirror_top" and stats.get("parent", {}).get("node-name") in nodes:
        stats = stats["parent"]
        inserted = nodes[stats["node-name"]]
    file_node = stats.get("parent", {}).get("node-name")
    if inserted["drv"] == "file":
        file_node = inserted["node-name"]
    return _Medium(
        device=entry.get("device", ""),
        qdev=entry.get("qdev", ""),
        inserted=inserted,
        file_node=file_node,
        path=_path(inserted, nodes.get(file_node or "")),
    )


def _path(inserted: Reply, file_node: Reply | None) -> str:
    """The image's file. A node opened with unusual options shows `json:{...}` instead of a name."""
    name = str(inserted["image"]["filename"])
    if name.startswith("json:") and file_node is not None:
        return str(file_node["image"]["filename"])
    return name


def disks(
    *,
    query_block: Sequence[Reply],
    named_block_nodes: Sequence[Reply] = (),
    blockstats: Sequence[Reply] = (),
) -> tuple[SourceDisk, ...]:
    """Every writable disk of the guest, from the replies of the commands of these names.

    Call `disk_refusals` on the same replies: here nothing is judged.
    """
    writable = [medium for medium in _media(query_block, named_block_nodes, blockstats) if not _read_only(medium)]
    return tuple(_disk(index, medium) for index, medium in enumerate(writable))


def _read_only(medium: _Medium) -> bool:
    return bool(medium.inserted["ro"])


def _disk(index: int, medium: _Medium) -> SourceDisk:
    image = medium.image
    driver = str(medium.inserted["drv"])
    return SourceDisk(
        index=index,
        device=medium.inserted["node-name"],
        qdev=medium.qdev,
        node=medium.inserted["node-name"],
        file_node=medium.file_node,
        format="raw" if driver == "file" else driver,  # a device on the bare file sees raw data
        path=medium.path,
        virtual_size_bytes=image["virtual-size"],
        cluster_size_bytes=image.get("cluster-size"),
        create_options=_create_options(medium) if driver == "qcow2" else {},
    )


def _create_options(medium: _Medium) -> dict[str, str]:
    """The qcow2 header as `qemu-img create -o` spells it; only what this QEMU reports."""
    options: dict[str, Any] = {"cluster_size": medium.image.get("cluster-size")}
    for key in ("compat", "lazy-refcounts", "refcount-bits", "extended-l2", "compression-type"):
        options[key.replace("-", "_")] = medium.specific.get(key)
    return {key: _spelled(value) for key, value in options.items() if value is not None}


def _spelled(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def disk_refusals(
    *,
    query_block: Sequence[Reply],
    named_block_nodes: Sequence[Reply] = (),
    blockstats: Sequence[Reply] = (),
    block_jobs: Sequence[Reply] = (),
) -> list[str]:
    """Why these disks cannot be moved, a sentence each. An empty drive (an ejected CD) is fine.

    Give `block_jobs` (`query-block-jobs`) without the mirrors this move started itself.
    """
    media = _media(query_block, named_block_nodes, blockstats)
    found = [sentence for medium in media for sentence in _refused(medium)]
    found += [f"block job {job['device']} ({job['type']}) is running; let it end or cancel it" for job in block_jobs]
    paths = Counter(medium.path for medium in media if not _read_only(medium))
    found += [f"{path} is used by {count} disks; give each its own" for path, count in paths.items() if count > 1]
    return found


def _refused(medium: _Medium) -> Iterator[str]:
    if _read_only(medium):
        # Firmware is part of QEMU's installation; every host has its own copy.
        if not medium.device.startswith("pflash"):
            yield f"{medium.shown}: its medium is read-only and must exist on the destination; eject it"
        return
    driver = medium.inserted["drv"]
    if driver not in {"raw", "qcow2", "file"}:
        yield f"{medium.shown}: a {driver} node is on top; only plain raw and qcow2 images are moved"
        return
    for reason, applies in _reasons(medium).items():
        if applies:
            yield f"{medium.shown}: {reason}"


def _reasons(medium: _Medium) -> dict[str, bool]:
    inserted, image, specific = medium.inserted, medium.image, medium.specific
    has_backing = "backing_file" in inserted or "backing-filename" in image
    bitmaps = [bitmap for bitmap in inserted.get("dirty-bitmaps", ()) if bitmap.get("name")]
    return {
        "it has a backing file; flatten it first (block-stream)": has_backing,
        "it has internal snapshots, which a mirror does not copy; delete them": bool(image.get("snapshots")),
        "it is encrypted, and the copy would not be": bool(inserted.get("encrypted")) or "encrypt" in specific,
        "its data lies in a separate file (data-file)": "data-file" in specific,
        "it has dirty bitmaps, which a mirror does not copy; remove them": bool(bitmaps or specific.get("bitmaps")),
        "its I/O is throttled by a group, which is not rebuilt; remove the limits": "group" in inserted,
        "it shows only a part of its file (offset, size)": _is_partial(image),
        "the image is marked corrupt; check it": bool(specific.get("corrupt")),
    }


def _is_partial(image: Reply) -> bool:
    name = str(image["filename"])
    if image["format"] != "raw" or not name.startswith("json:"):
        return False
    options = json.loads(name.removeprefix("json:"))
    return bool(options.get("offset")) or "size" in options


def unnamed_images(source_disks: Iterable[SourceDisk], argv: Sequence[str]) -> list[str]:
    """Disks whose image is not on the command line: a snapshot or a pivot changed it since the start."""
    words = [word.replace(",,", ",") for word in argv]
    return [
        f"{disk.path}, the image of disk {disk.qdev}, is not on the guest's command line; "
        "it was changed while the guest ran, so restart the guest on it first"
        for disk in source_disks
        if not any(disk.path in word for word in words)
    ]


def hot_plugged(peripheral: Sequence[Reply], peripheral_anon: Sequence[Reply], argv: Sequence[str]) -> list[str]:
    """Devices that came or went since the start, which the command line would not rebuild.

    Takes the replies of `qom-list` for /machine/peripheral and /machine/peripheral-anon. QEMU never
    notices an extra device at the destination, so one that was unplugged counts as well.
    """
    present, named = _children(peripheral), device_ids(argv)
    anonymous, expected = len(_children(peripheral_anon)), anonymous_devices(argv)
    found = [f"device {name} was plugged in while the guest ran; unplug it" for name in sorted(present - named)]
    found += [f"device {name} was unplugged while the guest ran; plug it in again" for name in sorted(named - present)]
    if anonymous != expected:
        found.append(
            f"{anonymous} devices without an id where the command line makes {expected}; "
            "some came or went while the guest ran"
        )
    return found


def _children(reply: Sequence[Reply]) -> set[str]:
    return {child["name"] for child in reply if str(child["type"]).startswith("child<")}
