"""Topology read from real QEMU processes, TCG, tiny disks; nothing of it is recorded."""

import json
import re
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from workers.qemu.command_line import destination_command_line, refusals
from workers.qemu.known_bugs import (
    BUGS,
    Severity,
    exporter_detect_zeroes,
    live_ram_safe,
    mirror_discard,
    sync_top_safe,
    version,
    warnings,
    write_blocking_safe,
)
from workers.qemu.topology import (
    differences,
    disk_refusals,
    disks,
    hot_plugged,
    normalise_qtree,
    normalise_ramblocks,
    unnamed_images,
)

QEMU = "/usr/bin/qemu-system-x86_64"
MAC = "52:54:00:00:00:01"


class Guest:
    """A QEMU with a QMP socket, synchronous and without events: enough to ask questions."""

    def __init__(self, argv, socket_path):
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.socket.connect(str(socket_path))
                break
            except OSError:
                assert self.process.poll() is None, self.process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while "event" in (reply := json.loads(self.file.readline())):
            pass
        assert "error" not in reply, reply
        return reply["return"]

    def qtree(self):
        return normalise_qtree(self("human-monitor-command", command_line="info qtree"))

    def ramblocks(self):
        return normalise_ramblocks(self("x-query-ramblock")["human-readable-text"])

    def block(self):
        return {
            "query_block": self("query-block"),
            "named_block_nodes": self("query-named-block-nodes", flat=True),
            "blockstats": self("query-blockstats"),
        }

    def argv(self):
        return Path(f"/proc/{self.process.pid}/cmdline").read_text().split("\0")

    def hot_plugged(self):
        children = [self("qom-list", path=f"/machine/{name}") for name in ("peripheral", "peripheral-anon")]
        return hot_plugged(*children, self.argv())

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.file.close()
        self.socket.close()


@pytest.fixture
def start():
    guests = []

    def start(argv, socket_path):
        guests.append(Guest(argv, socket_path))
        return guests[-1]

    yield start
    for guest in guests:
        guest.close()


def image(path, fmt="raw", size="1M", *options):
    path.parent.mkdir(exist_ok=True, parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *options, str(path), size], check=True)
    return path


IMAGES = {"a": "qcow2", "b": "raw", "c": "qcow2", "d": "raw", "e": "raw", "f": "qcow2", "g": "raw", "v": "raw"}


def make_images(root):
    for name, fmt in IMAGES.items():
        image(root / name, fmt, "256K" if name == "v" else "1M")


def guest_line(root, machine="q35", *, flash=True):
    """Every way of naming a disk at once, with and without ids."""
    nested = {"driver": "raw", "node-name": "n3", "file": {"driver": "file", "filename": f"{root}/e"}}
    line = [QEMU, "-display", "none", "-m", "64", "-accel", "tcg", "-machine", machine]
    line += ["-qmp", f"unix:{root}/qmp,server=on,wait=off", "-pidfile", f"{root}/pid"]
    line += ["-serial", f"file:{root}/serial.log", "-monitor", f"unix:{root}/hmp,server=on,wait=off"]
    line += ["-drive", f"file={root}/a,if=virtio,format=qcow2"]
    line += ["-drive", f"file={root}/b,if=none,id=d0,format=raw", "-device", "virtio-scsi-pci,id=scsi0,num_queues=1"]
    line += ["-device", "scsi-hd,drive=d0,bus=scsi0.0,id=sd0"]
    line += ["-blockdev", f"driver=qcow2,node-name=n1,file.driver=file,file.filename={root}/c"]
    line += ["-device", "virtio-blk-pci,drive=n1,id=vb1"]
    line += ["-blockdev", f"driver=file,node-name=f2,filename={root}/d", "-blockdev", "driver=raw,node-name=n2,file=f2"]
    line += ["-device", "virtio-blk-pci,drive=n2,id=vb2"]
    line += ["-blockdev", json.dumps(nested), "-device", json.dumps({"driver": "virtio-blk-pci", "drive": "n3"})]
    line += ["-hda", f"{root}/f", "-hdb" if machine == "pc" else "-hdc", f"{root}/g"]
    line += ["-drive", "if=none,id=cd,media=cdrom", "-device", "ide-cd,drive=cd,id=cd0"]
    line += ["-netdev", "user,id=net0", "-device", f"virtio-net-pci,netdev=net0,id=nic0,mac={MAC}"]
    return [*line, "-drive", f"file={root}/v,if=pflash,format=raw"] if flash else line


def derived(source, root_a, root_b, qemu=QEMU):
    machine = source("qom-get", path="/machine", property="type").removesuffix("-machine")
    return destination_command_line(
        source.argv(), machine_type=machine, source_root=str(root_a), destination_root=str(root_b), qemu=qemu
    )


def booted(guest):
    """Wait until the firmware has given addresses and is done with it, as in every guest worth moving."""
    deadline = time.monotonic() + 60
    tree, last = "", None
    while tree != last or not re.search(r"mem at 0x[0-9a-f]{1,8} ", tree):
        assert time.monotonic() < deadline
        time.sleep(1)
        tree, last = guest("human-monitor-command", command_line="info qtree"), tree


@pytest.mark.guests
@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_a_derived_command_line_builds_the_same_machine(machine, tmp_path, start):
    a, b = tmp_path / "a", tmp_path / "b"
    make_images(a)
    make_images(b)
    source = start(guest_line(a, machine, flash=False), a / "qmp")  # zeroes in flash would not boot
    booted(source)
    assert refusals(source.argv(), source_root=str(a)) == []
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
def test_another_machine_is_found_out(change, says, tmp_path, start):
    a, b = tmp_path / "a", tmp_path / "b"
    make_images(a)
    make_images(b)
    source = start([*guest_line(a), "-S"], a / "qmp")
    destination = start(change(derived(source, a, b)), b / "qmp")
    found = differences(source.qtree(), destination.qtree(), limit=50)
    assert any(re.search(says, sentence) for sentence in found), found


@pytest.mark.guests
def test_another_memory_size_is_found_out(tmp_path, start):
    a, b = tmp_path / "a", tmp_path / "b"
    for root in (a, b):
        root.mkdir()
    line = [QEMU, "-display", "none", "-nodefaults", "-M", "q35", "-m", "64", "-S", "-qmp"]
    source = start([*line, f"unix:{a}/q,server=on,wait=off"], a / "q")
    argv = [word if word != "64" else "96" for word in derived(source, a, b)]
    found = differences(source.ramblocks(), start(argv, b / "q").ramblocks())
    assert any("pc.ram" in sentence for sentence in found)


@pytest.mark.guests
def test_geometry_guessed_from_a_partition_table_is_no_difference(tmp_path, start):
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
def test_every_writable_disk_is_found_and_can_be_mirrored_by_its_name(tmp_path, start):
    a = tmp_path / "a"
    make_images(a)
    guest = start([*guest_line(a), "-S"], a / "qmp")
    replies = guest.block()
    found = disks(**replies)
    assert disk_refusals(**replies) == []
    assert {disk.path: disk.format for disk in found} == {f"{a}/{name}": fmt for name, fmt in IMAGES.items()}
    assert [disk.index for disk in found] == list(range(len(IMAGES)))
    assert unnamed_images(found, guest.argv()) == []
    for disk in found:
        target = image(tmp_path / f"target{disk.index}", "raw", str(disk.virtual_size_bytes))
        guest("blockdev-add", driver="file", node_name=f"t{disk.index}", filename=str(target))
        guest(
            "blockdev-mirror",
            device=disk.device,
            target=f"t{disk.index}",
            job_id=f"j{disk.index}",
            sync="full",
            filter_node_name=f"top{disk.index}",
        )
    time.sleep(0.5)
    assert {job["status"] for job in guest("query-jobs")} == {"ready"}
    during = guest.block()
    assert disks(**during) == found  # seen through the mirrors' own filters
    assert disk_refusals(**during) == []
    assert len(disk_refusals(**during, block_jobs=guest("query-block-jobs"))) == len(found)


@pytest.mark.guests
def test_a_qcow2_header_is_read_back_as_create_options(tmp_path, start):
    options = "cluster_size=128k,compat=1.1,lazy_refcounts=on,refcount_bits=32,extended_l2=on,compression_type=zstd"
    path = image(tmp_path / "i", "qcow2", "8M", "-o", options)
    line = [QEMU, "-display", "none", "-M", "q35", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    guest = start([*line, "-drive", f"file={path},if=virtio"], tmp_path / "q")
    (disk,) = disks(**guest.block())
    assert disk.create_option_string == options.replace("128k", "131072")
    copy = image(tmp_path / "copy", "qcow2", str(disk.virtual_size_bytes), "-o", disk.create_option_string)
    info = [
        json.loads(subprocess.run(["qemu-img", "info", "-U", "--output=json", p], capture_output=True).stdout)
        for p in (path, copy)
    ]
    assert info[0]["format-specific"] == info[1]["format-specific"]
    assert (disk.cluster_size_bytes, disk.virtual_size_bytes) == (131072, 8 << 20)
    assert {node["node-name"]: node["drv"] for node in guest.block()["named_block_nodes"]}[disk.file_node] == "file"


REFUSED = {
    "backing": "backing file",
    "snapshots": "internal snapshots",
    "data": "separate file",
    "encrypted": "encrypted",
    "bitmaps": "dirty bitmaps",
    "throttled": "throttled",
    "filter": "throttle node",
    "part": "part of its file",
    "cdrom": "must exist on the destination",
    "shared": "used by 2 disks",
}


def awkward_image(kind, path):
    """An image with something in it that a mirror leaves behind; further `-drive` words."""
    match kind:
        case "backing":
            base = image(path.with_name("base"), "qcow2")
            image(path, "qcow2", "1M", "-b", str(base), "-F", "qcow2")
        case "snapshots":
            subprocess.run(["qemu-img", "snapshot", "-c", "s", path], check=True)
        case "data":
            image(path, "qcow2", "1M", "-o", f"data_file={path}.data")
        case "encrypted":
            secret = ["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s"]
            image(path, "qcow2", "1M", *secret)
            return ",encrypt.key-secret=s"
        case "bitmaps":
            subprocess.run(["qemu-img", "bitmap", "--add", path, "b"], check=True)
        case "throttled":
            return ",throttling.iops-total=9"
    return ""


def awkward_disk(kind, path):
    file = {"driver": "file", "filename": str(path)}
    graphs = {
        "filter": {"driver": "throttle", "throttle-group": "g", "file": {"driver": "qcow2", "file": file}},
        "part": {"driver": "raw", "offset": 0, "size": 4096, "file": file},
    }
    if kind in graphs:
        return ["-blockdev", json.dumps({"node-name": "n", **graphs[kind]}), "-device", "virtio-blk-pci,drive=n"]
    if kind == "cdrom":
        return ["-cdrom", str(path)]
    drive = ["-drive", f"file={path},if=virtio{awkward_image(kind, path)}"]
    return [f"{word},file.locking=off" if "," in word else word for word in drive * 2] if kind == "shared" else drive


@pytest.mark.guests
@pytest.mark.parametrize("kind", REFUSED)
def test_a_disk_a_mirror_would_not_copy_faithfully_is_refused(kind, tmp_path, start):
    line = [QEMU, "-display", "none", "-M", "q35", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    line += ["-object", "secret,id=s,data=x", "-object", "throttle-group,id=g"]
    guest = start([*line, *awkward_disk(kind, image(tmp_path / "i", "qcow2"))], tmp_path / "q")
    (sentence,) = disk_refusals(**guest.block())
    assert REFUSED[kind] in sentence
    assert str(tmp_path) in sentence


@pytest.mark.guests
def test_what_changed_while_the_guest_ran_is_named(tmp_path, start):
    path = image(tmp_path / "i", "qcow2")
    line = [QEMU, "-display", "none", "-M", "pc", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    guest = start([*line, "-drive", f"file={path},if=virtio", "-device", "virtio-rng-pci,id=gone"], tmp_path / "q")
    guest("device_add", driver="virtio-rng-pci", id="late")
    guest("device_add", driver="virtio-rng-pci")
    guest("blockdev-snapshot-sync", device="virtio0", snapshot_file=str(tmp_path / "o"), format="qcow2")
    found = guest.hot_plugged()
    assert len(found) == 2
    assert "late was plugged in" in found[0]
    assert "2 devices without an id where the command line makes 1" in found[1]
    gone = [{"name": "late", "type": "child<virtio-rng-pci>"}, {"name": "type", "type": "string"}]
    assert any("gone was unplugged" in sentence for sentence in hot_plugged(gone, [], guest.argv()))
    (sentence,) = unnamed_images(disks(**guest.block()), guest.argv())
    assert f"{tmp_path}/o" in sentence


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
        ('drive = "#block123"', 'drive = "#block456"'),
        ('chardev = "/hosts/a/x"', 'chardev = "/hosts/b/x"'),
        ("mmio 00000000fed00000/0000000000000400", "mmio ffffffffffffffff/0000000000000400"),
        ("below-4g-mem-size = 67108864 (64 MiB)", "below-4g-mem-size = 67108864 (0x4000000)"),
        ('gpio-out "isa-irq" 2', 'gpio-out "isa-irq" 3'),
    ],
)
def test_what_firmware_guest_or_host_decide_is_no_difference(source, destination):
    """Each pair was seen between a booted guest and a waiting one, or between 7.2 and 10.0."""
    trees = [normalise_qtree(f'bus: b\n  dev: d, id ""\n    {line}\n') for line in (source, destination)]
    assert trees[0] == trees[1]


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("rombar = 0 (0x0)", "rombar = -1 (0xffffffffffffffff)"),
        ("port 1, guest on, host on, throttle off", "port 2, guest on, host on, throttle off"),
        ("bar 0: mem at 0xfea10000 [0xfea13fff]", "bar 0: mem at 0xffffffffffffffff [0x1ffe]"),
        ("class VGA, addr 00:02.0, pci id 1:2 (sub 3:4)", "class VGA, addr 00:03.0, pci id 1:2 (sub 3:4)"),
        ('chardev = "charserial0"', 'chardev = "charserial1"'),
    ],
)
def test_what_the_machine_is_made_of_is_a_difference(source, destination):
    trees = [normalise_qtree(f'bus: b\n  dev: d, id ""\n    {line}\n') for line in (source, destination)]
    assert len(differences(*trees)) >= 1


def test_equal_anonymous_siblings_are_told_apart():
    tree = 'bus: b\n  dev: d, id ""\n    x = 1 (0x1)\n  dev: d, id ""\n    x = 2 (0x2)\n'
    assert normalise_qtree(tree) == ("b", "b/d", "b/d: x = 1", "b/d#2", "b/d#2: x = 2")


def test_differences_are_short_and_count_the_rest():
    source = [f"bus/dev: p{number} = 1" for number in range(9)]
    destination = [f"bus/dev: p{number} = 2" for number in range(9)]
    found = differences(source, destination, 5)
    assert found[0] == "bus/dev: p0 = 1 at the source, 2 at the destination"
    assert found[-1] == "and 4 more differences"
    assert len(found) == 6


def test_between_versions_only_properties_known_to_both_count():
    source = ["bus/dev", "bus/dev: old = 1", "bus/dev: both = 1", "bus/extra"]
    destination = ["bus/dev", "bus/dev: new = 1", "bus/dev: both = 2"]
    assert differences(source, destination, same_version=False) == [
        "only at the source: bus/extra",
        "bus/dev: both = 1 at the source, 2 at the destination",
    ]
    assert len(differences(source, destination)) == 4


def test_versions_are_read_from_the_reply():
    reply = {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": "Debian"}
    assert version(reply) == (10, 0, 2)


@pytest.mark.parametrize(
    ("source", "destination", "accel", "safe"),
    [
        ((7, 2, 22), (10, 0, 2), "tcg", False),
        ((10, 0, 2), (7, 2, 22), "tcg", False),
        ((8, 2, 1), (8, 2, 1), "tcg", False),
        ((8, 2, 2), (9, 0, 0), "tcg", True),
        ((7, 2, 22), (7, 2, 22), "kvm", True),
    ],
)
def test_live_memory_copies_are_for_versions_that_do_not_corrupt_them(source, destination, accel, safe):
    assert live_ram_safe(source, destination, accel) is safe


@pytest.mark.parametrize(
    ("qemu", "fmt", "discard"),
    [
        ((7, 2, 22), "qcow2", "unmap"),
        ((8, 0, 0), "qcow2", "ignore"),
        ((10, 0, 9), "qcow2", "ignore"),
        ((10, 0, 9), "raw", "unmap"),
        ((10, 0, 10), "qcow2", "unmap"),
        ((10, 1, 5), "qcow2", "ignore"),
        ((10, 2, 1), "qcow2", "ignore"),
        ((10, 2, 2), "qcow2", "unmap"),
        ((11, 1, 3), "qcow2", "unmap"),
    ],
)
def test_a_mirror_that_misses_early_writes_marks_everything_dirty_first(qemu, fmt, discard):
    assert mirror_discard(qemu, fmt) == discard
    assert sync_top_safe(qemu) is (mirror_discard(qemu, "qcow2") == "unmap")


def test_zeroes_are_detected_only_when_asked_and_safe():
    assert exporter_detect_zeroes((11, 1, 3), "qcow2") == "off"
    assert exporter_detect_zeroes((11, 1, 3), "qcow2", wanted=True) == "unmap"
    assert exporter_detect_zeroes((10, 0, 2), "qcow2", wanted=True) == "off"
    assert exporter_detect_zeroes((10, 0, 2), "raw", wanted=True) == "unmap"


def test_write_blocking_is_kept_from_versions_that_crash():
    assert [write_blocking_safe(v) for v in ((7, 2, 22), (10, 0, 2), (10, 1, 0), (10, 2, 1))] == [
        False,
        True,
        False,
        True,
    ]


def test_the_operator_is_warned_by_host_and_bug():
    assert len({bug.id for bug in BUGS}) == len(BUGS)
    assert all(bug.severity in Severity for bug in BUGS)
    found = warnings((7, 2, 22), "tcg", destination_version=(10, 0, 2))
    assert any("source QEMU 7.2.22" in text and "corrupts guest memory" in text for text in found)
    assert any("destination QEMU 10.0.2" in text and "(B10)" in text for text in found)
    assert not any("corrupts guest memory" in text for text in warnings((7, 2, 22), "kvm"))
