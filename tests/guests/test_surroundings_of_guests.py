"""What a guest's QEMU has of its host goes along: its user and limits, taps by descriptor, an emulated TPM."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from lab import fleet, network
from lab.directory import Lab
from models.plan import Execution, Inspection, Plan, Tap
from tests import labs
from tests.helpers import Moves, until
from tests.launch_lines import in_network_of
from workers.process import exec_qemu, execution, processes, vcpus
from workers.process.processes import Process
from workers.qemu.monitor import connect
from workflows import cold_start, guests
from workflows.migration import jobs, preflight
from workflows.submit_options import SubmitOptions

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.guests,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces, taps and other users need root"),
    pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed (lab/setup.sh does it)"),
]
NAME = "surrounded"
STATE = "tpm2-00.permall"
TAP = Tap(
    name="vnet3",
    bridge="br0",
    mac="fe:54:00:12:34:56",
    mtu=1450,
    headers=True,
    multi_queue=True,
    descriptors=(30, 31),
    port={"isolated": True},
)
PLUGGED = TAP.model_copy(update={"name": "vnet8", "mac": "fe:54:00:12:34:57", "multi_queue": False, "port": {}})
LIKE_THIS = Execution(
    user="nobody",
    group="nogroup",
    groups=("nogroup",),
    nice=4,
    cpus=(min(os.sched_getaffinity(0)),),
    vcpus=((), (max(os.sched_getaffinity(0)),)),
    memory_policy="interleave:0",
    limits={"nofile": (1000, 1000)},  # QEMU raises the lower one itself
    taps=(TAP,),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The second host has no bridge yet."""
    with labs.temporary(namespaces=True) as made:
        fleet.write_policy(made, users='["nobody"]')
        add_bridge(made, "host-a")
        yield made


def ip(lab: Lab, host: str, *words: str) -> str:
    argv = ["ip", "-n", network.namespace(lab, host), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def add_bridge(lab: Lab, host: str) -> None:
    ip(lab, host, "link", "add", "br0", "type", "bridge")
    ip(lab, host, "link", "set", "br0", "up")


def folder(lab: Lab, host: str) -> Path:
    return lab.host(host).guests / NAME


def start(lab: Lab) -> None:
    """As libvirt does it: swtpm first, and a QEMU of an ordinary user with open taps."""
    here = folder(lab, "host-a")
    (here / "tpm").mkdir(parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", here / "disk.qcow2", "64M"], check=True)
    subprocess.run(["chown", "-R", "nobody:nogroup", here], check=True)
    state, control = f"dir={here}/tpm,mode=0600", f"type=unixio,path={here}/tpm.sock,mode=0600"
    emulator = ["swtpm", "socket", "--tpm2", "--tpmstate", state, "--ctrl", control, "--terminate", "--daemon"]
    subprocess.run(["runuser", "-u", "nobody", "--", *emulator], check=True)
    argv = [
        *(
            "/usr/bin/qemu-system-x86_64",
            "-name",
            NAME,
            "-machine",
            "q35,accel=tcg",
            "-m",
            "128",
            "-smp",
            "2",
            "-nodefaults",
        ),
        *("-display", "none", "-sandbox", "on,spawn=deny", "-qmp", f"unix:{here}/qmp.sock,server=on,wait=off"),
        *("-drive", f"file={here}/disk.qcow2,if=virtio,format=qcow2"),
        *("-netdev", "tap,id=n,fds=30:31", "-device", "virtio-net-pci,netdev=n,mq=on,vectors=6"),
        *("-chardev", f"socket,id=t,path={here}/tpm.sock", "-tpmdev", "emulator,id=tpm,chardev=t"),
        *("-device", "tpm-crb,tpmdev=tpm", "-device", "pcie-root-port,id=slot1,slot=1"),
    ]
    words = [*network.inside(lab, lab.host("host-a")), *execution.launched(argv, LIKE_THIS)]
    processes.spawn(lab.mark(NAME), words, lab.logs / f"{NAME}.log")
    until("its monitor is there", (here / "qmp.sock").exists, 20)
    asyncio.run(_as_libvirt_goes_on(lab, f"{here}/qmp.sock"))
    guests.adopt(NAME, "host-a", f"{here}/qmp.sock")


async def _as_libvirt_goes_on(lab: Lab, qmp: str) -> None:
    """A vCPU is pinned, and another network card with a tap by descriptor plugged in."""
    told = PLUGGED.model_dump() | {"descriptors": [0]}
    [tap] = in_network_of(lab, lab.host("host-a"), lambda: exec_qemu._tap(told))
    async with connect(qmp) as monitor:
        _, second = await vcpus.threads(monitor)
        os.sched_setaffinity(second, LIKE_THIS.vcpus[1])
        await monitor.give("tap", tap)
        os.close(tap)
        await monitor.execute("netdev_add", type="tap", id="n2", fd="tap")
        await monitor.execute("device_add", driver="virtio-net-pci", netdev="n2", id="nic2", bus="slot1")


def asked(to: str) -> Plan:
    """A dry run."""
    return preflight.plan(guests.known_guest(NAME), to, tried=True)


def seen(lab: Lab, host: str) -> Inspection:
    """It is as it was started, wherever it is."""
    found = guests.inspect(guests.known_guest(NAME))
    assert found.started_as is not None
    plugged = PLUGGED.model_copy(update={"descriptors": found.started_as.taps[1].descriptors})
    assert found.started_as == LIKE_THIS.model_copy(update={"taps": (TAP, plugged)})
    assert found.tpm is not None
    assert found.tpm.started_as.user == "nobody"
    assert found.tpm.state == f"{folder(lab, host)}/tpm"
    assert (folder(lab, host) / "tpm" / STATE).stat().st_mode & 0o777 == 0o600
    return found


def identity_of_tpm(lab: Lab, host: str) -> bytes:
    """Its keys and seeds; a counter of boots stands behind them."""
    return (folder(lab, host) / "tpm" / STATE).read_bytes()[:900]


def none_left(lab: Lab, host: str, was: Inspection | None = None) -> None:
    assert "vnet" not in ip(lab, host, "link")
    assert not (folder(lab, host) / "tpm" / STATE).exists()
    if was is not None and was.tpm is not None:
        assert not Process(was.tpm.pid, was.tpm.started).alive
        assert list((folder(lab, host) / "tpm").glob(f"{STATE}.drover-*")), "it is kept like the images"


def test_a_guest_moves_there_and_back_with_all_that_its_qemu_has_of_its_host(lab: Lab) -> None:
    moves = Moves(lab, [NAME])
    start(lab)
    with pytest.raises(PreconditionFailed, match="is the bridge br0, which does not exist here; create it there"):
        asked("host-b")
    add_bridge(lab, "host-b")
    tpm = identity_of_tpm(lab, "host-a")

    held = jobs.submit(NAME, "host-b", terms=SubmitOptions(hold=True))
    until("the guest's next QEMU is there", lambda: "vnet" in ip(lab, "host-b", "link"))
    jobs.cancel(held.id)
    moves.ended(held.id)
    none_left(lab, "host-b")

    before = seen(lab, "host-a")
    moves.done(moves.move(NAME, "host-b"))
    there = seen(lab, "host-b")
    assert identity_of_tpm(lab, "host-b") == tpm
    none_left(lab, "host-a", before)

    Process(there.pid, there.started).kill()
    cold_start.start(NAME)
    again = seen(lab, "host-b")
    assert identity_of_tpm(lab, "host-b") == tpm

    moves.done(moves.move(NAME, "host-a"))
    seen(lab, "host-a")
    assert identity_of_tpm(lab, "host-a") == tpm
    none_left(lab, "host-b", again)
    moves.end()
    until("all has ended with its QEMU", lambda: "vnet" not in ip(lab, "host-a", "link"))
