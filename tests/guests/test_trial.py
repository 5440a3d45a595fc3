"""Before a move the destination tries the guest's QEMU with stand-ins, and leaves nothing of the trial."""

import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from models.plan import DestinationPlan, FileKind, Inspection, PlannedDisk, PlannedFile, Topology
from models.preflight import Check
from tests import factories
from workers.preflight import trial
from workers.process import processes
from workers.process.qemus import TRIALS
from workers.qemu import ports
from workers.qemu.trial_line import TrialLine, trial_line

QEMU = str(shutil.which("qemu-system-x86_64"))


def tried(*words: str) -> TrialLine:
    return trial_line(
        ["qemu", *words, "-S", "-incoming", "defer"],
        stand_ins={"/g/disk.qcow2": "/t/disk0", "/dev/vg/web": "/t/disk1"},
        folder=Path("/t"),
    )


@pytest.mark.parametrize(
    ("words", "become"),
    [
        ("-drive file=/g/disk.qcow2,if=virtio,format=qcow2", "-drive file=/t/disk0,if=virtio,format=qcow2"),
        (
            "-drive file=/g/disk.qcow2,backing.file.locking=off,backing.file.filename=/g/base,if=virtio",
            "-drive file=/t/disk0,if=virtio",
        ),
        ("-blockdev driver=host_device,filename=/dev/vg/web", "-blockdev driver=file,filename=/t/disk1"),
        (
            '-blockdev {"driver":"qcow2","node-name":"n","file":{"driver":"file","filename":"/g/disk.qcow2"}}',
            '-blockdev {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": "/t/disk0"}}',
        ),
        ("-netdev tap,id=n,ifname=t0,script=/x", "-netdev user,id=n,restrict=on"),
        ("-nic user,model=e1000,hostfwd=tcp::2222-:22", "-nic user,model=e1000,restrict=on"),
        ("-net nic,model=virtio -net tap,fd=3", "-net nic,model=virtio -net user,restrict=on"),
        ("-chardev socket,id=c,path=/run/c,server=on,wait=off", "-chardev null,id=c"),
        ("-serial tcp::4000,server=on -serial chardev:c", "-serial null -serial chardev:c"),
        ("-qmp unix:/g/qmp,server=on,wait=off", "-monitor none"),
        ("-vnc :1 -pidfile /g/pid -D /g/log -gdb tcp::1234 -s -runas vmuser", ""),
        ("-object memory-backend-ram,id=m,prealloc=on", "-object memory-backend-ram,id=m,prealloc=off"),
        ('-object {"id":"m","prealloc":true}', '-object {"id": "m", "prealloc": false}'),
        ("-object memory-backend-file,id=m,mem-path=/g/ram", "-object memory-backend-file,id=m,mem-path=/t/made0"),
    ],
)  # fmt: skip
def test_a_trial_makes_the_machine_and_joins_opens_and_overwrites_nothing(words: str, become: str) -> None:
    common = ["-S", "-incoming", "defer", "-display", "none", "-qmp", "unix:/t/qmp,server=on,wait=off"]
    assert " ".join(tried(*words.split()).argv) == " ".join(["qemu", *become.split(), *common])


def test_a_card_with_several_queues_is_started_but_not_compared() -> None:
    assert tried("-netdev", "tap,id=n,ifname=t").same_machine
    assert not tried("-netdev", "tap,id=n,ifname=t,queues=4").same_machine


def here(tmp_path: Path, *words: str, qtree: tuple[str, ...] | None = None) -> list[Check]:
    """What a trial of a guest with one disk and these options finds on this host."""
    ours = factories.offline(host="two", directory=tmp_path)
    disk = PlannedDisk(
        index=0,
        device="d",
        format="qcow2",
        source_path="/a/disk",
        destination_path="/nowhere/disk",
        virtual_size_bytes=1 << 30,
        create_options={"cluster_size": "65536"},
        discard="unmap",
    )
    drive = ("-drive", "file=/nowhere/disk,if=virtio,format=qcow2", "-qmp", "unix:/nowhere/qmp,server=on,wait=off")
    argv = (QEMU, "-machine", "q35", "-nodefaults", *drive, *words, "-S", "-incoming", "defer")
    plan = DestinationPlan.model_construct(argv=argv, disks=(disk,), qmp="/nowhere/qmp", qemu_version=(10, 0, 2))
    found = asyncio.run(trial.tried(seen(tmp_path, argv, disk, qtree), plan, ours))
    assert not list((tmp_path / TRIALS).iterdir())
    assert not processes.find_below(tmp_path)
    return found


def seen(tmp_path: Path, argv: tuple[str, ...], disk: PlannedDisk, qtree: tuple[str, ...] | None) -> Inspection:
    there = Topology(qtree=qtree or (), ramblocks=())
    if qtree is None:
        plain = tuple(word for word in argv if word != "no-such-device")
        there = asyncio.run(machine_of(tmp_path, plain, disk))
    return Inspection.model_construct(topology=there, qemu_version=(10, 0, 2))


async def machine_of(tmp_path: Path, argv: tuple[str, ...], disk: PlannedDisk) -> Topology:
    folder = tmp_path / "source"
    folder.mkdir()
    stand_ins = {disk.destination_path: str(folder / "disk")}
    trial._stand_in(disk, stand_ins)
    return await trial._machine(trial_line(argv, stand_ins=stand_ins, folder=folder), folder)


@pytest.mark.guests
def test_a_guest_that_starts_and_gets_its_machine_is_not_refused(tmp_path: Path) -> None:
    assert here(tmp_path, "-vnc", ":0", "-netdev", "tap,id=n,ifname=none0", "-device", "virtio-net-pci,netdev=n") == []


def test_of_several_trials_none_takes_away_what_another_has_made(tmp_path: Path) -> None:
    ours = factories.offline(host="two", directory=tmp_path)
    left = tmp_path / TRIALS / "of a worker that died"
    left.mkdir(parents=True)

    async def two_at_once() -> None:
        async with trial._folder(ours) as first, trial._folder(ours) as second:
            assert first.is_dir()
            assert second.is_dir()
            assert not left.exists()

    asyncio.run(two_at_once())


@pytest.mark.guests
def test_what_keeps_qemu_from_starting_is_known_beforehand(tmp_path: Path) -> None:
    [check] = here(tmp_path, "-bios", "/nowhere/bios.bin", qtree=("x",))
    assert check.name == "does-not-start"
    assert "/nowhere/bios.bin" in check.seen


@pytest.mark.guests
def test_another_machine_is_known_beforehand(tmp_path: Path) -> None:
    found = here(tmp_path, qtree=("main-system-bus", "main-system-bus/gone"))
    assert {check.name for check in found} == {"other-machine"}
    assert any("gone" in check.seen for check in found)
    assert all("since its start" in check.remedy for check in found), "both have the same QEMU"


@pytest.mark.parametrize(
    ("words", "can"),
    [
        (["-drive", "file=/g/cd,format=luks,key-secret=s,readonly=on"], False),
        (["-object", "secret,id=s,file=/g/s,format=base64"], False),
        (["-object", "secret,id=s,data=Zm9v,keyid=master,iv=AAAA"], False),
        (["-object", "secret,id=s,file=/g/s", "-vnc", "none,password-secret=s"], True),
    ],
)
def test_nothing_is_tried_with_a_stand_in_for_what_only_a_key_opens(words: list[str], can: bool) -> None:
    file = PlannedFile.model_construct(there=False, kind=FileKind.SECRET)
    assert trial.can_be_tried(DestinationPlan.model_construct(argv=("qemu", *words), files=(file,))) is can


def test_a_port_that_is_taken_is_named_and_a_free_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        [port] = ports.ports(["qemu", "-nic", f"user,hostfwd=tcp:127.0.0.1:{number}-:22"])
        assert ports.taken(port) == f"port {number} is in use"
    assert ports.taken(port) is None


def test_a_port_of_ipv6_that_is_taken_is_named() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        number = server.getsockname()[1]
        [port] = ports.ports(["qemu", "-vnc", f"[::1]:{number - ports.FIRST_VNC}"])
        assert ports.taken(port) == f"port {number} is in use"


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["-vnc", "127.0.0.1:9,websocket=5799"], [5909, 5799]),
        (["-vnc", "[::1]:35"], [5935]),
        (["-vnc", ":1,to=9"], []),
        (["-vnc", "unix:/x"], []),
        (["-vnc", "127.0.0.1:5500,reverse=on"], []),
        (["-qmp", "tcp:127.0.0.1:4444,server,nowait"], [4444]),
        (["-qmp", "tcp:[::1]:4445,server,nowait"], [4445]),
        (["-serial", "tcp:other:4000"], []),
        (["-chardev", "socket,id=c,host=0.0.0.0,port=4001,server=on"], [4001]),
        (["-netdev", "user,id=n,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:5353-:53"], [2222, 5353]),
        (["-netdev", '{"type":"user","id":"n","hostfwd":[{"str":"tcp::2222-:22"},{"str":"udp::53-:53"}]}'], [2222, 53]),
        (["-spice", "port=5930,addr=127.0.0.1"], [5930]),
        (["-spice", "port=0,tls-port=5931"], [5931]),
        (["-display", "vnc=127.0.0.1:21"], [5921]),
        (["-display", "none"], []),
        (["-s"], [1234]),
        (["-gdb", "tcp:127.0.0.1:1239"], [1239]),
        (["-chardev", "udp,id=c,host=other,port=5999,localport=5998"], [5998]),
        (["-netdev", "socket,id=n,listen=:15557"], [15557]),
        (["-netdev", "socket,id=n,udp=other:15558,localaddr=127.0.0.1:15559"], [15559]),
        (["-netdev", "socket,id=n,mcast=230.0.0.1:1234,localaddr=127.0.0.1"], []),
        (["-netdev", '{"type":"stream","id":"n","server":true,"addr":{"type":"inet","host":"::1","port":"7"}}'], [7]),
        (["-netdev", "stream,id=n,addr.type=inet,addr.host=other,addr.port=8"], []),
        (
            ["-netdev", "dgram,id=n,remote.type=inet,remote.host=other,remote.port=9,local.type=inet,local.port=10"],
            [10],
        ),
    ],
)
def test_the_ports_at_which_a_guest_listens_are_known_from_its_command_line(
    words: list[str], numbers: list[int]
) -> None:
    assert [port.number for port in ports.ports(["qemu", *words])] == numbers


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["-serial", "tcp:127.0.0.1:4555"], [4555]),
        (["-serial", "telnet:localhost:4555,server=on"], []),
        (["-serial", "tcp:127.0.0.1:4555,reconnect-ms=500"], []),
        (["-serial", "tcp:[::1]:4555"], [4555]),
        (["-serial", "tcp:192.0.2.1:4555"], []),
        (["-gdb", "tcp:127.0.0.1:1234"], []),
        (["-vnc", "127.0.0.1:5500,reverse=on"], [5500]),
        (["-vnc", "127.0.0.1:5"], []),
        (["-chardev", "socket,id=c,host=127.0.0.1,port=4555"], [4555]),
        (["-chardev", '{"backend":"x","id":"c"}'], []),
        (["-netdev", "socket,id=n,connect=127.0.0.1:4556"], [4556]),
        (["-netdev", "user,id=n,guestfwd=tcp:10.0.2.9:7-tcp:127.0.0.1:4558"], [4558]),
        (["-netdev", "stream,id=n,addr.type=inet,addr.host=::1,addr.port=4557"], [4557]),
        (["-netdev", "stream,id=n,server=on,addr.type=inet,addr.host=::1,addr.port=4557"], []),
    ],
)
def test_the_programs_of_its_host_that_a_guest_connects_to_are_known_from_its_command_line(
    words: list[str], numbers: list[int]
) -> None:
    assert [port.number for port in ports.connected(["qemu", *words])] == numbers
