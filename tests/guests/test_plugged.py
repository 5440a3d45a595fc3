"""What is plugged into a running guest, and out of it, is there at the destination: three times there and back."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.qmp_guest import QEMU, Guest, Start, guests, image
from workers.qemu import plugged, qom
from workers.qemu.command_line import destination_command_line
from workers.qemu.monitor import connect
from workers.qemu.refusals import command_line_refusals
from workers.qemu.topology import differences, hot_plugged, unplugged_cpus

pytestmark = pytest.mark.guests


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


def line(folder: Path, *more: str) -> list[str]:
    folder.mkdir(parents=True)
    for name in "ab":
        image(folder / name, "qcow2", "16M")
    argv = [QEMU, "-display", "none", "-M", "pc", "-m", "64M,slots=2,maxmem=1G", "-smp", "1,maxcpus=2", "-nic", "none"]
    argv += ["-qmp", f"unix:{folder}/q,server=on,wait=off", "-qmp", f"unix:{folder}/ours,server=on,wait=off"]
    return [*argv, "-S", *more]


def now(folder: Path, argv: list[str]) -> list[str]:
    async def ask() -> list[str]:
        async with connect(folder / "ours") as monitor:
            return await plugged.as_it_is_now(monitor, argv)

    return asyncio.run(ask())


def moved(guest: Guest, here: Path, there: Path, start: Start) -> tuple[Guest, list[str]]:
    """The incoming QEMU of another host, which is the same machine; and the command line that it was derived from."""
    argv = now(here, [word for word in guest.argv() if word])
    named, anonymous = (qom.named(guest("qom-list", path=path)) for path in (qom.PERIPHERAL, qom.ANONYMOUS))
    assert hot_plugged(named.keys(), anonymous.values(), argv) == []
    assert command_line_refusals(argv, source_root=str(here)) == []
    machine = guest("qom-get", path="/machine", property="type").removesuffix("-machine")
    if not there.exists():
        line(there)
    derived = destination_command_line(
        argv, machine_type=machine, source_root=str(here), destination_root=str(there), qemu=QEMU
    )
    arrived = start(derived, there / "q")
    assert differences(guest.qtree(), arrived.qtree()) == []
    assert differences(guest.ramblocks(), arrived.ramblocks()) == []
    return arrived, argv


def plug_in(guest: Guest, folder: Path) -> None:
    file = {"driver": "file", "filename": f"{folder}/b", "discard": "unmap"}
    guest("blockdev-add", driver="qcow2", node_name="data", cache={"direct": False}, file=file, discard="unmap")
    guest("device_add", driver="virtio-blk-pci", id="disk1", drive="data", serial="abc")
    guest("object-add", qom_type="memory-backend-ram", id="more", size=128 << 20)
    guest("device_add", driver="pc-dimm", id="dimm1", memdev="more")
    guest("netdev_add", type="user", id="net1")
    guest("device_add", driver="virtio-net-pci", id="nic1", netdev="net1", mac="52:54:00:00:00:07")
    guest("object-add", qom_type="iothread", id="thread1")
    guest("device_add", driver="virtio-scsi-pci", id="bus1", iothread="thread1")
    [free] = [slot for slot in guest("query-hotpluggable-cpus") if "qom-path" not in slot]
    place = {key.replace("-", "_"): value for key, value in free["props"].items()}
    guest("device_add", driver=free["type"], id="cpu1", **place)


def test_what_was_plugged_in_is_there_at_the_destination_there_and_back_three_times(
    tmp_path: Path, start: Start
) -> None:
    places = [tmp_path / name for name in "xy"]
    guest = start(line(places[0], "-drive", f"file={places[0]}/a,if=virtio,format=qcow2"), places[0] / "q")
    assert now(places[0], ["a", "b"]) == ["a", "b"]
    plug_in(guest, places[0])
    guest("human-monitor-command", command_line="hostfwd_add net1 tcp:127.0.0.1:0-:22")
    network = now(places[0], [word for word in guest.argv() if word])
    [forwarded] = re.findall(r"user,id=net1,hostfwd=(tcp:127.0.0.1:\d+)-10.0.2.15:22", " ".join(network))
    guest("human-monitor-command", command_line=f"hostfwd_remove net1 {forwarded}")
    lines: list[Any] = []
    for turn in range(6):
        here, there = places[turn % 2], places[(turn + 1) % 2]
        arrived, argv = moved(guest, here, there, start)
        guest.close()
        guest = arrived
        lines.append([word.replace(str(here), "") for word in argv])
    assert {str(words) for words in lines[1:]} == {str(lines[1])}  # it grows no more
    assert len(guest("query-cpus-fast")) == 2
    assert guest("query-memory-devices")[0]["data"]["size"] == 128 << 20


def test_ports_that_lead_into_a_guest_are_those_that_there_are_now(tmp_path: Path, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    said = f"tcp:127.0.0.1:{port}-:22"
    networks = ["-netdev", json.dumps({"type": "user", "id": "n", "hostfwd": [{"str": said}]}), "-net", "user"]
    here = tmp_path / "x"
    guest = start([*line(here), *networks], here / "q")
    argv = [word for word in guest.argv() if word]
    assert now(here, argv) == argv
    guest("human-monitor-command", command_line=f"hostfwd_remove n tcp:127.0.0.1:{port}")
    assert said not in " ".join(now(here, argv))
    guest("human-monitor-command", command_line=f"hostfwd_add n tcp:127.0.0.1:{port}-:80")
    assert f'"hostfwd": [{{"str": "tcp:127.0.0.1:{port}-10.0.2.15:80"}}]' in " ".join(now(here, argv))


def test_what_was_unplugged_is_not_there_and_all_else_stays_at_its_address(tmp_path: Path, start: Start) -> None:
    here, there = tmp_path / "x", tmp_path / "y"
    more = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,id=nic0,netdev=net0"]
    more += ["-drive", f"file={here}/a,if=none,id=d0,format=qcow2", "-device", "virtio-blk-pci,id=disk0,drive=d0"]
    guest = start(line(here, *more), here / "q")
    guest("device_del", id="nic0")  # before the guest runs nothing keeps it there
    guest("system_reset")
    guest("netdev_del", id="net0")
    assert "nic0" not in str(guest("qom-list", path="/machine/peripheral"))
    _, argv = moved(guest, here, there, start)
    assert "nic0" not in " ".join(argv)
    assert "virtio-blk-pci,id=disk0,drive=d0,addr=4.0" in argv


def test_devices_without_an_id_stay_at_their_address_as_well(tmp_path: Path, start: Start) -> None:
    here, there = tmp_path / "x", tmp_path / "y"
    more = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,id=nic0,netdev=net0"]
    more += ["-device", '{"driver":"virtio-balloon-pci"}']
    more += ["-drive", f"file={here}/a,if=virtio,format=qcow2,cache=none", "-device", "virtio-rng-pci"]
    guest = start(line(here, *more), here / "q")
    guest("device_del", id="nic0")
    guest("system_reset")
    guest("netdev_del", id="net0")
    arrived, argv = moved(guest, here, there, start)
    assert f"file={here}/a,format=qcow2,cache=none,if=none,id=virtio0" in argv
    json_device = '{"driver": "virtio-balloon-pci", "addr": "6.0"}'
    placed = {"virtio-rng-pci,addr=4.0", "virtio-blk-pci,drive=virtio0,addr=5.0", json_device}
    assert placed < set(argv)
    guest.close()
    again, later = moved(arrived, there, here, start)
    assert placed < set(later)
    assert again("query-block")[0]["device"] == "virtio0"


CPU_HOTPLUG = 0xAF00
"""The ports by which the firmware of `pc` tells that a CPU may go (docs/specs/acpi_cpu_hotplug.rst)."""


def eject_cpu(guest: Guest, number: int, path: str) -> None:
    """As an operating system does it when it is asked for."""
    guest("human-monitor-command", command_line=f"o/b {CPU_HOTPLUG:#x} 0")  # its firmware knows of unplugging
    guest("device_del", id=path)
    for command in (f"o/w {CPU_HOTPLUG:#x} {number}", f"o/b {CPU_HOTPLUG + 4:#x} 8"):
        guest("human-monitor-command", command_line=command)


def smp(argv: list[str]) -> str:
    return argv[len(argv) - argv[::-1].index("-smp")]


def test_a_cpu_that_was_plugged_in_and_unplugged_again_leaves_no_trace(tmp_path: Path, start: Start) -> None:
    here, there = tmp_path / "x", tmp_path / "y"
    guest = start(line(here), here / "q")
    plug_in(guest, here)
    eject_cpu(guest, 1, "cpu1")
    arrived, argv = moved(guest, here, there, start)
    assert "-cpu" not in " ".join(argv)
    assert smp(argv) == "1,maxcpus=2"
    assert len(arrived("query-cpus-fast")) == 1


def test_a_cpu_that_the_guest_was_started_with_and_that_went_is_not_there(tmp_path: Path, start: Start) -> None:
    places = [tmp_path / name for name in "xy"]
    guest = start([*line(places[0]), "-smp", "3,sockets=3,maxcpus=3"], places[0] / "q")
    cpus = sorted(slot["qom-path"] for slot in guest("query-hotpluggable-cpus"))
    eject_cpu(guest, 2, max(cpus, key=lambda path: int(path.rpartition("[")[2].rstrip("]"))))
    for turn in range(3):
        arrived, argv = moved(guest, places[turn % 2], places[(turn + 1) % 2], start)
        guest.close()
        guest = arrived
        assert smp(argv) == "cpus=2,maxcpus=3,sockets=3"
        assert len(guest("query-cpus-fast")) == 2
        assert unplugged_cpus(2, argv) == []


def test_a_cpu_that_is_missing_between_others_is_told(tmp_path: Path, start: Start) -> None:
    here = tmp_path / "x"
    guest = start([*line(here), "-smp", "3,sockets=3,maxcpus=3"], here / "q")
    paths = sorted((slot["qom-path"] for slot in guest("query-hotpluggable-cpus")), key=lambda path: (len(path), path))
    eject_cpu(guest, 1, paths[1])
    argv = now(here, [word for word in guest.argv() if word])
    assert [check.seen for check in unplugged_cpus(len(guest("query-cpus-fast")), argv)] == [
        "the guest has 2 CPUs where its command line makes 1: some were unplugged in between"
    ]


def test_channels_and_random_numbers_that_were_plugged_in_are_there(tmp_path: Path, start: Start) -> None:
    here, there = tmp_path / "x", tmp_path / "y"
    guest = start(line(here, "-device", "virtio-serial,id=ports"), here / "q")
    guest("object-add", qom_type="rng-random", id="entropy", filename="/dev/urandom")
    guest("device_add", driver="virtio-rng-pci", id="rng1", rng="entropy")
    address = {"type": "unix", "data": {"path": f"{here}/channel.sock"}}
    backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
    guest("chardev-add", id="channel", backend=backend)
    guest("device_add", driver="virtserialport", id="port1", bus="ports.0", chardev="channel", name="org.example")
    guest("chardev-add", id="terminal", backend={"type": "pty", "data": {}})
    guest("device_add", driver="virtconsole", bus="ports.0", chardev="terminal")  # without an id, as by hand
    guest("object-add", qom_type="throttle-group", id="group", limits={"iops-total": 7})
    arrived, argv = moved(guest, here, there, start)
    assert f"socket,id=channel,path={here}/channel.sock,server=on,wait=off" in argv
    assert "pty,id=terminal" in argv
    assert {"channel", "terminal"} <= {entry["label"] for entry in arrived("query-chardev")}
    assert arrived("qom-get", path="/objects/group", property="limits")["iops-total"] == 7
