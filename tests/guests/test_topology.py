"""Topology read from real QEMU processes, TCG, tiny disks; nothing of it is recorded."""

import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.qmp_guest import MAC, QEMU, Guest, Start, guest_line, guests, image, make_images
from workers.qemu import qom
from workers.qemu.command_line import destination_command_line
from workers.qemu.disks import source_disks, unnamed_images
from workers.qemu.refusals import command_line_refusals
from workers.qemu.topology import differences, hot_plugged, normalise_qtree


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


def derived(source: Guest, root_a: Path, root_b: Path, qemu: str = QEMU) -> list[str]:
    machine = source("qom-get", path="/machine", property="type").removesuffix("-machine")
    return destination_command_line(
        source.argv(), machine_type=machine, source_root=str(root_a), destination_root=str(root_b), qemu=qemu
    )


def booted(guest: Guest) -> None:
    """Wait until the firmware has given addresses and is done with it, as in every guest worth moving."""
    deadline = time.monotonic() + 60
    tree, last = "", ""
    while tree != last or not re.search(r"mem at 0x[0-9a-f]{1,8} ", tree):
        assert time.monotonic() < deadline
        time.sleep(1)
        tree, last = guest("human-monitor-command", command_line="info qtree"), tree


@pytest.mark.guests
@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_a_derived_command_line_builds_the_same_machine(machine: str, tmp_path: Path, start: Start) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    make_images(a)
    make_images(b)
    source = start(guest_line(a, machine, flash=False), a / "qmp")  # zeroes in flash would not boot
    booted(source)
    assert command_line_refusals(source.argv(), source_root=str(a)) == []
    assert source.hot_plugged() == []
    line = derived(source, a, b)
    destination = start(line, b / "qmp")
    assert destination("query-status")["status"] == "inmigrate"
    assert str(a) not in " ".join(destination.argv())
    assert differences(source.qtree(), destination.qtree()) == []
    assert differences(source.ramblocks(), destination.ramblocks()) == []
    assert derived(destination, b, b) == line


@pytest.mark.guests
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: [*line, "-device", "virtio-rng-pci,id=rng0"], 'only at the destination: .*virtio-rng-pci "rng0"'),
        (lambda line: [word.replace(MAC, "52:54:00:00:00:02") for word in line], "mac .*00:01.*00:02"),
        (lambda line: [word.replace("num_queues=1", "num_queues=2") for word in line], "num_queues = 1 .*2"),
        (lambda line: [word.replace("id=nic0", "id=nic0,addr=0x10") for word in line], "addr"),
        (lambda line: [word.replace("id=vb1", "id=vb1,serial=other") for word in line], "serial .*other"),
    ],
)
def test_another_machine_is_found_out(
    change: Callable[[list[str]], list[str]], says: str, tmp_path: Path, start: Start
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    make_images(a)
    make_images(b)
    source = start([*guest_line(a), "-S"], a / "qmp")
    destination = start(change(derived(source, a, b)), b / "qmp")
    found = differences(source.qtree(), destination.qtree(), limit=50)
    assert any(re.search(says, sentence) for sentence in found), found


@pytest.mark.guests
def test_another_memory_size_is_found_out(tmp_path: Path, start: Start) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for root in (a, b):
        root.mkdir()
    line = [QEMU, "-display", "none", "-nodefaults", "-M", "q35", "-m", "64", "-S", "-qmp"]
    source = start([*line, f"unix:{a}/q,server=on,wait=off"], a / "q")
    argv = [word if word != "64" else "96" for word in derived(source, a, b)]
    found = differences(source.ramblocks(), start(argv, b / "q").ramblocks())
    assert any("pc.ram" in sentence for sentence in found)


@pytest.mark.guests
@pytest.mark.parametrize(
    "network",
    [
        "-nic user -nic user,model=virtio",
        "-net nic,model=virtio -net user",
        "-netdev user,id=n0 -device virtio-net-pci,netdev=n0",
        "",
    ],
)
def test_networks_and_devices_without_ids_are_the_same_on_both_sides(
    network: str, tmp_path: Path, start: Start
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for root in (a, b):
        root.mkdir()
    line = [QEMU, "-display", "none", "-M", "pc", "-m", "64", "-S", *network.split(), "-qmp"]
    source = start([*line, f"unix:{a}/q,server=on,wait=off"], a / "q")
    assert source.hot_plugged() == []
    assert differences(source.qtree(), start(derived(source, a, b), b / "q").qtree()) == []


@pytest.mark.guests
def test_geometry_guessed_from_a_partition_table_is_no_difference(tmp_path: Path, start: Start) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for root in (a, b):
        image(root / "i", "raw", "64M")
    sector = bytearray((a / "i").read_bytes())
    entry = struct.pack("<B3sB3sII", 0x80, bytes([1, 1, 0]), 0x83, bytes([3, 32, 100]), 32, 50000)
    sector[446:462], sector[510:512] = entry, b"\x55\xaa"
    (a / "i").write_bytes(sector)
    line = [QEMU, "-display", "none", "-M", "q35", "-drive", f"file={a}/i,if=virtio,format=raw", "-S", "-qmp"]
    source = start([*line, f"unix:{a}/q,server=on,wait=off"], a / "q")
    destination = start(derived(source, a, b), b / "q")
    raw = [guest("human-monitor-command", command_line="info qtree") for guest in (source, destination)]
    assert [line for line in raw[0].splitlines() if "heads" in line] != [
        line for line in raw[1].splitlines() if "heads" in line
    ]
    assert differences(source.qtree(), destination.qtree()) == []


@pytest.mark.guests
def test_what_changed_while_the_guest_ran_is_named(tmp_path: Path, start: Start) -> None:
    path = image(tmp_path / "i", "qcow2")
    line = [QEMU, "-display", "none", "-M", "pc", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    guest = start([*line, "-drive", f"file={path},if=virtio", "-device", "virtio-rng-pci,id=gone"], tmp_path / "q")
    guest("device_add", driver="virtio-rng-pci", id="late")
    guest("device_add", driver="virtio-rng-pci")
    guest("blockdev-snapshot-sync", device="virtio0", snapshot_file=str(tmp_path / "o"), format="qcow2")
    found = guest.hot_plugged()
    assert len(found) == 2
    assert "late was plugged in" in found[0].seen
    assert "2 devices without an id where the command line makes 1" in found[1].seen
    gone = [{"name": "late", "type": "child<virtio-rng-pci>"}, {"name": "type", "type": "string"}]
    assert any("gone was unplugged" in check.seen for check in hot_plugged(qom.named(gone).keys(), [], guest.argv()))
    (check,) = unnamed_images(source_disks(guest.block()), guest.argv())
    assert f"{tmp_path}/o" in check.seen


def tree_with(line: str) -> tuple[str, ...]:
    """The tree of one device with this line about it."""
    return normalise_qtree(f'bus: b\n  dev: d, id ""\n    {line}\n')


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (
            "addr 0.1, port 1, speed 480, name QEMU USB Tablet, attached",
            "addr 0.0, port 1, speed 480, name QEMU USB Tablet",
        ),
        ("port 1, guest on, host on, throttle off", "port 1, guest off, host off, throttle off"),
        ("rombar = 1 (0x1)", "rombar = -1 (0xffffffffffffffff)"),
        ("smb_io_base = 1792 (0x700)", "smb_io_base = 45312 (0xb100)"),
        ("MCFG = 2952790016 (0xb0000000)", "MCFG = -1 (0xffffffffffffffff)"),
        ("bar 0: mem at 0xfea10000 [0xfea13fff]", "bar 0: mem at 0xffffffffffffffff [0x3ffe]"),
        ("class VGA, addr 01:02.0, pci id 1:2 (sub 3:4)", "class VGA, addr 00:02.0, pci id 1:2 (sub 3:4)"),
        (
            "class PCI bridge, addr 00:02.0, pci id 1b36:000c (sub 00e0:0000)",
            "class PCI bridge, addr 00:02.0, pci id 1b36:000c (sub 0000:0000)",
        ),
        ('drive = "#block123"', 'drive = "#block456"'),
        ('netdev = "#net071"', 'netdev = "#net172"'),
        ('chardev = "/hosts/a/x"', 'chardev = "/hosts/b/x"'),
        ("mmio 00000000fed00000/0000000000000400", "mmio ffffffffffffffff/0000000000000400"),
        ("below-4g-mem-size = 67108864 (64 MiB)", "below-4g-mem-size = 67108864 (0x4000000)"),
        ('gpio-out "isa-irq" 2', 'gpio-out "isa-irq" 3'),
        ('port = ""', 'port = "1.2"'),
        (f'osk = "{"x" * 64}\x01"', f'osk = "{"x" * 64}\x02\x03"'),
    ],
)
def test_what_firmware_guest_or_host_decide_is_no_difference(source: str, destination: str) -> None:
    """Each pair was seen between a booted guest and a waiting one, or between 7.2 and 10.0."""
    assert tree_with(source) == tree_with(destination)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("rombar = 0 (0x0)", "rombar = -1 (0xffffffffffffffff)"),
        ("port 1, guest on, host on, throttle off", "port 2, guest on, host on, throttle off"),
        ("bar 0: mem at 0xfea10000 [0xfea13fff]", "bar 0: mem at 0xffffffffffffffff [0x1ffe]"),
        ("class VGA, addr 00:02.0, pci id 1:2 (sub 3:4)", "class VGA, addr 00:03.0, pci id 1:2 (sub 3:4)"),
        ("class VGA, addr 00:02.0, pci id 1:2 (sub 3:4)", "class VGA, addr 00:02.0, pci id 1:2 (sub 3:5)"),
        ("port = 16 (0x10)", "port = 17 (0x11)"),
        ('osk = "a"', 'osk = "b"'),
        ('chardev = "charserial0"', 'chardev = "charserial1"'),
        ('netdev = "net0"', 'netdev = "net1"'),
        ('netdev = "#net071"', 'netdev = ""'),
    ],
)
def test_what_the_machine_is_made_of_is_a_difference(source: str, destination: str) -> None:
    assert len(differences(tree_with(source), tree_with(destination))) >= 1


def test_equal_anonymous_siblings_are_told_apart() -> None:
    tree = 'bus: b\n  dev: d, id ""\n    x = 1 (0x1)\n  dev: d, id ""\n    x = 2 (0x2)\n'
    assert normalise_qtree(tree) == ("b", "b/d", "b/d: x = 1", "b/d#2", "b/d#2: x = 2")


def test_differences_are_short_and_count_the_rest() -> None:
    source = [f"bus/dev: p{number} = 1" for number in range(9)]
    destination = [f"bus/dev: p{number} = 2" for number in range(9)]
    found = differences(source, destination, 5)
    assert found[0] == "bus/dev: p0 = 1 at the source, 2 at the destination"
    assert found[-1] == "and 4 more differences"
    assert len(found) == 6


def test_between_versions_only_properties_known_to_both_count() -> None:
    source = ["bus/dev", "bus/dev: old = 1", "bus/dev: both = 1", "bus/extra"]
    destination = ["bus/dev", "bus/dev: new = 1", "bus/dev: both = 2"]
    assert differences(source, destination, same_version=False) == [
        "only at the source: bus/extra",
        "bus/dev: both = 1 at the source, 2 at the destination",
    ]
    assert len(differences(source, destination)) == 4
