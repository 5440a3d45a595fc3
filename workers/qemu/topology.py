"""What a machine is made of, read from QMP replies: its devices and its memory blocks.

QEMU itself never notices an extra device, another MAC or a missing CPU flag at the destination,
and a missing device only inside the downtime (seen on 7.2, 10.0 and 11.1). So both sides' `info qtree`
and `info ramblock` are reduced to what must be equal and compared before anything starts.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from models.plan import Topology
from models.preflight import Check
from workers.preflight import checks
from workers.qemu import boot_cpus
from workers.qemu.command_line import device_ids, nameless_devices
from workers.qemu.options import FLOPPIES, parse_command_line

Reply = Mapping[str, Any]

_FIRMWARE = {"MCFG", "busnr", "smb_io_base"}
"""Set by the firmware: a machine that waits for its state has not run any."""

_GEOMETRY = {"cyls", "heads", "secs", "lcyls", "lheads", "lsecs"}
"""Guessed from the partition table in the image's first sector, which may not be copied yet.
Geometry given on the command line is carried over by the command line."""

_RAMBLOCK = re.compile(r"\s*(?:(\S+)\s+)?(\d+ \w+)\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)")
"""Name, page size, (offset), used and total length; some blocks have no name."""

OSK_LENGTH = 65
"""With the quotation mark: QEMU's own text in place of a key that is missing has no end (10.0.2)."""
_VOLATILE = _FIRMWARE | _GEOMETRY
_HOST_PATHS = ("chardev", "filename", "path", "logfile", "mem-path")
_MADE_UP = re.compile(r"#(block|net|chr|qdev)\d+")
"""A name that QEMU makes up for what has none: two digits of it are random (util/id.c). What it stands for follows
from the command line's order, which is the same on both sides."""


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
        return _class(content)
    name, equals, value = content.partition(" = ")
    if not equals:
        return _status(content)
    if (name, value.partition(" ")[0]) == ("rombar", "-1"):
        return "rombar = 1"  # from 10.0 the default is "auto", which is what 1 was before
    if name == "romfile" and value not in {'""', "<null>"}:
        return "romfile = a file"  # relative at the source, say; its size is that of a memory block
    if name in _VOLATILE or (name in _HOST_PATHS and "/" in value):
        return None
    if name == "port" and value.startswith('"'):
        return None  # as it was asked for; at which a USB device is says a line of its bus
    if name == "osk":
        return f"osk = {value[:OSK_LENGTH]}"
    return f"{name} = {_value(value)}"


def _class(content: str) -> str:
    """The bus number is the firmware's; so is what QEMU shows as `sub` of a bridge, half of a window's address."""
    found = re.sub(r"addr [0-9a-f]+:", "addr *:", content)
    return re.sub(r" \(sub [^)]*\)$", "", found) if found.startswith("class PCI bridge,") else found


def _status(content: str) -> str | None:
    """A line of a bus's own: without what the guest's drivers decide, and without inner wiring.

    The guest numbers USB devices and opens serial ports; `gpio-` lines differ between QEMUs.
    """
    if content.startswith("gpio-"):
        return None
    content = re.sub(r"^addr \d+\.\d+, ", "", content)
    return re.sub(r", (attached|guest (on|off), host (on|off), throttle (on|off))$", "", content)


def _value(value: str) -> str:
    """A value without its second notation, and without the numbers in names that QEMU makes up."""
    return _MADE_UP.sub(r"#\1", re.sub(r"(?<=\d) \([^()]*\)$", "", value))


def normalise_ramblocks(text: str) -> tuple[str, ...]:
    """`info ramblock` without host addresses: name, page size, used and total length.

    Sorted: the order depends on the order of registration, which migration does not care about.
    `Used` of the ACPI tables grows when the guest's firmware asks for them, so only the total
    counts for blocks QEMU may resize (`/rom@...`). Offsets are QEMU's own bookkeeping, and 7.2 has no
    column for read-only.
    """
    rows = (_RAMBLOCK.match(line) for line in text.replace("\r", "").splitlines()[1:])
    return tuple(sorted(_ramblock(*row.groups(default="")) for row in rows if row is not None))


def _ramblock(name: str, page: str, used_hex: str, total_hex: str) -> str:
    used, total = int(used_hex, 16), int(total_hex, 16)
    length = f"{total} bytes" if name.startswith("/rom@") else f"{used} of {total} bytes"
    return f"{name}: pages of {page}, {length}"


def differences_of(source: Topology, destination: Topology, *, same_version: bool) -> list[str]:
    """Likewise of devices and memory of two machines."""
    parts = ((source.qtree, destination.qtree), (source.ramblocks, destination.ramblocks))
    return [sentence for here, there in parts for sentence in differences(here, there, same_version=same_version)]


def differences(
    source: Sequence[str], destination: Sequence[str], limit: int = 5, *, same_version: bool = True
) -> list[str]:
    """What only one side has, as sentences, at most `limit` of them and then how many more.

    Between versions of QEMU (`same_version=False`) a property that the other side's device does
    not have at all is no difference; the device and every property known to both still count.
    """
    source, destination = ([_without_back_end(line) for line in side] for side in (source, destination))
    only_source, only_destination = Counter(source), Counter(destination)
    only_source.subtract(destination)
    only_destination.subtract(source)
    left, right = sorted((+only_source).elements()), sorted((+only_destination).elements())
    if not same_version:
        left, right = _known_to_both(left, destination), _known_to_both(right, source)
    found = list(_sentences(left, right))
    more = len(found) - limit
    return found if more <= 0 else [*found[:limit], f"and {more} more differences"]


def _without_back_end(line: str) -> str:
    """Which node is behind a drive is the host's affair: only whether there is one counts."""
    return re.sub(r': drive = "?[^"]+"?$', ": drive = a node", line)


def _key(line: str) -> str:
    return line.partition(" = ")[0]


def _known_to_both(lines: Iterable[str], other: Sequence[str]) -> list[str]:
    known = {_key(line) for line in other}
    return [line for line in lines if " = " not in line or _key(line) in known]


def _sentences(left: Sequence[str], right: Sequence[str]) -> Iterator[str]:
    """Devices first; properties of a device missing on one side are not listed."""
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


def unplugged_cpus(present: int, argv: Sequence[str]) -> list[Check]:
    """CPUs that the command line would make although they are gone, or the other way round."""
    started = boot_cpus.started_with(argv)
    if started is None or started + boot_cpus.plugged_by(argv) == present:
        return []
    expected = started + boot_cpus.plugged_by(argv)
    seen = f"the guest has {present} CPUs where its command line makes {expected}: some were unplugged in between"
    return [checks.machine.HOT_PLUGGED.found(seen, remedy="start the guest anew with the CPUs that it has now")]


def hot_plugged(present: Set[str], anonymous: Iterable[str], argv: Sequence[str]) -> list[Check]:
    """Devices that came or went since the start, which the command line would not rebuild: by the ids of those that
    have one, and by how many have none (`anonymous`: their drivers).

    QEMU never notices an extra device at the destination, so one that was unplugged counts as well. Floppy drives
    cannot be plugged, and stand there where QEMU has made them by itself (`present_media`).
    """
    options = parse_command_line(argv)
    made = [options[place].driver for place in nameless_devices(options)]
    named = device_ids(argv)
    there, expected = (sum(driver not in FLOPPIES for driver in drivers) for drivers in (anonymous, made))
    plugged = {name: f"device {name} was plugged in while the guest ran" for name in sorted(present - named)}
    unplugged = {name: f"device {name} was unplugged while the guest ran" for name in sorted(named - present)}
    found = [checks.machine.HOT_PLUGGED.found(seen, remedy="unplug it") for seen in plugged.values()]
    found += [checks.machine.HOT_PLUGGED.found(seen, remedy="plug it in again") for seen in unplugged.values()]
    if there != expected:
        seen = f"{there} devices without an id where the command line makes {expected}: some came or went since"
        found.append(
            checks.machine.HOT_PLUGGED.found(seen, remedy="start the guest anew with the devices that it has now")
        )
    return found
