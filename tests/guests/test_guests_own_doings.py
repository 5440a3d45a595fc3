"""What a guest, or its owner, does to it while it is being moved: nothing is lost, and their will is done.

What the guest does is done to its real devices by I/O ports, as its kernel would: that can be timed from outside.
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lab.directory import Lab
from lab.guest.console import read_consoles
from lab.guest.spec import DiskSpec
from lab.guest.verify import ImageRef, verify
from models.job import Job, JobState
from tests import helpers
from tests.filesystem import guests_in_a_small_folder
from tests.helpers import MIB, Moves, until
from workers.process import processes
from workers.process.processes import Process
from workers.qemu.monitor import CommandRefused, MonitorLost, connect
from workflows.migration import jobs

pytestmark = pytest.mark.guests

POWER_OFF = "o /w 0x604 0x2000"  # ACPI: sleep state S5
RESET = "o /b 0xcf9 0x06"
PANIC = "o /b 0x505 1"  # pvpanic
SCSI = DiskSpec(size_bytes=64 * MIB, bus="virtio-scsi")
PHASES = ["copy", "ram"]
PATIENCE_S = 60.0
"""For a QEMU that a busy machine lets answer late: 5 s were not enough while RAM was sent."""
SHOTS = 5
"""How often a pause of some hundredths of a second is aimed at."""


@pytest.fixture(scope="module")
def resident(lab: Lab) -> Iterator[str]:
    """A guest for the tests that leave it at host-a."""
    with helpers.resident(lab, fill_mib=32) as name:
        yield name


def _ask(
    moves: Moves, guest: str, command: str, *, host: str = "host-a", ends_qemu: bool = False, **arguments: Any
) -> Any:
    """By the owner, through a monitor of their own."""

    async def execute() -> Any:
        async with connect(moves.lab.host(host).guests / guest / "watch.sock", timeout_s=PATIENCE_S) as monitor:
            with suppress(*[MonitorLost] if ends_qemu else []):  # QEMU may be gone before it answers
                return await monitor.execute(command, **arguments)

    return asyncio.run(execute())


def _write_port(moves: Moves, guest: str, line: str) -> None:
    _ask(moves, guest, "human-monitor-command", command_line=line, ends_qemu=True)


def _quit(moves: Moves, guest: str) -> None:
    _ask(moves, guest, "quit", ends_qemu=True)


def _runstate(moves: Moves, guest: str, host: str = "host-a") -> str:
    return str(_ask(moves, guest, "query-status", host=host)["status"])


def _said(moves: Moves, job: Job, event: str) -> bool:
    return any(line["event"] == event for line in moves.journal(job, "host-a", "source"))


def _under_way(moves: Moves, guest: str, phase: str, *, guest_must_run: bool = True) -> Job:
    """A move that is in this phase for some seconds more."""
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=(4 if phase == "copy" else 8) * MIB)
    if phase == "ram" and guest_must_run and job.plan is not None and job.plan.destination.ram == "paused":
        pytest.skip("with this QEMU the guest does nothing while its RAM is sent: it is paused")
    if phase == "copy":
        until("the copy runs", lambda: moves.job(job.id).disks[0].bytes_copied > MIB)
        return job
    sign = "migrating" if phase == "ram" else "pre-switchover"
    until(f"the switchover is {sign}", lambda: _said(moves, job, sign), every_s=0.001)
    return job


def _step_error(moves: Moves, job: Job) -> str:
    return next(step.error or "" for step in moves.job(job.id).steps if step.name == "await_sync")


def _waits(moves: Moves, job: Job, sentence: str) -> None:
    until(f"the job says that {sentence}", lambda: sentence in _step_error(moves, job))
    assert f"`drover job cancel {job.id}`" in _step_error(moves, job)


def _rolled_back(moves: Moves, job: Job, why: str) -> Job:
    ended = moves.ended(job.id)
    assert ended.state is JobState.ROLLED_BACK, moves.events(job.id)
    assert why in (ended.error or "")
    moves.nothing_left(ended)
    assert not Path(ended.disks[0].destination_path).exists()
    return ended


def _lost_nothing(moves: Moves, guest: str) -> None:
    """Its QEMU is gone, and every write that it saw acknowledged is in the source's image."""
    assert not processes.find(moves.lab.mark(f"guest-{guest}"))
    folder = moves.lab.host("host-a").guests / guest
    console = folder / "console.log"
    assert read_consoles([console]).acks
    report = verify([ImageRef(folder / "disk0.qcow2", "qcow2", "vda")], [console])
    assert report.ok, report.problems


@pytest.mark.parametrize("phase", PHASES)
def test_a_guest_that_powers_off_stays_off_at_the_source_with_all_its_data(moves: Moves, phase: str) -> None:
    guest = moves.boot(fill_mib=32)
    job = _under_way(moves, guest, phase)
    _write_port(moves, guest, POWER_OFF)
    _rolled_back(moves, job, "powered off or crashed")
    _lost_nothing(moves, guest)


@pytest.mark.parametrize("phase", PHASES)
def test_a_guest_that_its_owner_ends_is_not_started_again(moves: Moves, phase: str) -> None:
    guest = moves.boot(fill_mib=32)
    job = _under_way(moves, guest, phase, guest_must_run=False)
    _quit(moves, guest)
    _ended_by_its_owner(moves, guest, job)


@pytest.mark.thorough
def test_a_guest_that_its_owner_ends_in_the_pause_is_not_started_again(moves: Moves) -> None:
    """The pause is too short to act in it, so the process that carries the guest over is frozen there."""
    for _ in range(SHOTS):
        guest = moves.boot()
        job = _under_way(moves, guest, "ram", guest_must_run=False)
        carrying = [found for found in moves.processes_of(job, "host-a") if b"workers.switchover" in _words(found)]
        until("the guest is paused", lambda: _said(moves, job, "pre-switchover"), every_s=0.001)  # noqa: B023
        for process in carrying:
            process.signal(signal.SIGSTOP)
        if not _said(moves, job, "continuing"):
            break
        for process in carrying:
            process.signal(signal.SIGCONT)
        moves.ended(job.id)
    else:
        pytest.fail(f"the pause was missed {SHOTS} times")
    _quit(moves, guest)
    for process in carrying:
        process.signal(signal.SIGCONT)
    _ended_by_its_owner(moves, guest, job)


def _words(found: Process) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{found.pid}/cmdline").read_bytes()
    return b""


def _ended_by_its_owner(moves: Moves, guest: str, job: Job) -> None:
    ended = _rolled_back(moves, job, "")
    assert "powered off or crashed" in (ended.error or "") or "died before it was told to run" in (ended.error or "")
    _lost_nothing(moves, guest)


@pytest.mark.parametrize("phase", PHASES)
def test_a_guest_that_powers_off_and_keeps_its_qemu_stays_off_at_the_source(moves: Moves, phase: str) -> None:
    guest = moves.boot(fill_mib=32, more=("-no-shutdown",))
    job = _under_way(moves, guest, phase)
    _write_port(moves, guest, POWER_OFF)
    _rolled_back(moves, job, f"{guest} powered off while it was being moved")
    assert _runstate(moves, guest) == "shutdown"


def test_a_guest_that_panics_and_is_ended_for_that_stays_off_at_the_source(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32, more=("-device", "pvpanic,id=panic0"))
    job = _under_way(moves, guest, "copy")
    _write_port(moves, guest, PANIC)
    _rolled_back(moves, job, "powered off or crashed")
    _lost_nothing(moves, guest)


@pytest.mark.parametrize("phase", PHASES)
def test_a_guest_that_panics_and_is_stopped_for_that_stays_at_the_source_to_be_looked_at(
    moves: Moves, phase: str
) -> None:
    guest = moves.boot(fill_mib=32, more=("-device", "pvpanic,id=panic0", "-action", "panic=pause"))
    job = _under_way(moves, guest, phase)
    _write_port(moves, guest, PANIC)
    _rolled_back(moves, job, f"{guest} panicked while it was being moved")
    assert _runstate(moves, guest) == "guest-panicked"


@pytest.mark.parametrize(("phase", "by_owner"), [("copy", False), ("ram", True), ("switch", True)])
def test_a_guest_that_is_reset_is_moved_all_the_same(moves: Moves, phase: str, by_owner: bool) -> None:
    guest = moves.boot(fill_mib=32)
    job = _under_way(moves, guest, phase, guest_must_run=False)
    if by_owner:
        _ask(moves, guest, "system_reset")
    else:
        _write_port(moves, guest, RESET)
    moves.hurry(job.id)
    moves.done(moves.ended(job.id))
    console = moves.lab.host("host-b").guests / guest / "console.log"
    until("the guest writes again at the destination", lambda: console.read_bytes().count(b"ack") > 5, 120)


@pytest.mark.parametrize("phase", PHASES)
def test_a_guest_that_its_owner_pauses_is_moved_once_they_let_it_run_again(moves: Moves, phase: str) -> None:
    guest = moves.boot(fill_mib=32)
    job = _under_way(moves, guest, phase)
    _ask(moves, guest, "stop")
    _waits(moves, job, f"{guest} is paused on host-a: let it run and the move goes on")
    until("the copy is complete", lambda: moves.job(job.id).disks[0].ready_at)
    assert _runstate(moves, guest) == "paused"
    moves.hurry(job.id)
    _ask(moves, guest, "cont")
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")


@pytest.mark.parametrize("phase", PHASES)
def test_a_guest_that_its_owner_paused_stays_paused_when_its_move_is_cancelled(
    moves: Moves, resident: str, phase: str
) -> None:
    guest = resident
    job = _under_way(moves, guest, phase)
    _ask(moves, guest, "stop")
    jobs.cancel(job.id)
    _rolled_back(moves, job, "cancelled")
    assert _runstate(moves, guest) == "paused"
    _ask(moves, guest, "cont")
    moves.intact(guest, "host-a")


@pytest.mark.parametrize("phase", PHASES)
def test_a_guest_that_an_io_error_at_the_source_stopped_is_moved_once_its_owner_mended_that(
    moves: Moves, phase: str
) -> None:
    with guests_in_a_small_folder(moves, "host-a") as small:
        guest = moves.boot(DiskSpec(size_bytes=320 * MIB), fill_mib=32, window_mib=256, write_rate=40)
        job = _under_way(moves, guest, phase)
        small.reserve(small.path / guest / "console.log", MIB)
        small.leave(MIB)
        until("a write of the guest fails", lambda: _runstate(moves, guest) == "io-error")
        _waits(moves, job, f"{guest} is stopped by an I/O error on host-a")
        small.enlarge()
        moves.hurry(job.id)
        _ask(moves, guest, "cont")
        moves.done(moves.ended(job.id, 240))
        moves.intact(guest, "host-b")


def test_what_qemu_refuses_and_what_the_guest_ignores_changes_nothing(moves: Moves) -> None:
    guest = moves.boot(SCSI, fill_mib=32)
    job = _under_way(moves, guest, "copy")
    _ask(moves, guest, "system_powerdown")
    with pytest.raises(CommandRefused):
        _ask(moves, guest, "block_resize", node_name="disk0", size=128 * MIB)
    until("RAM is sent", lambda: _said(moves, job, "migrating"))
    with pytest.raises(CommandRefused):
        _ask(moves, guest, "block_resize", node_name="disk0", size=128 * MIB)
    with pytest.raises(CommandRefused, match="not allowed while migrating"):
        _ask(moves, guest, "device_del", id="device0")
    with pytest.raises(CommandRefused, match="not allowed while migrating"):
        _ask(moves, guest, "device_add", driver="scsi-cd", id="late", bus="scsi0.0")
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")


def test_a_device_that_is_plugged_in_during_the_copy_ends_the_move_and_stays(moves: Moves) -> None:
    guest = moves.boot(SCSI, fill_mib=32)
    job = _under_way(moves, guest, "copy")
    _ask(moves, guest, "device_add", driver="scsi-cd", id="late", bus="scsi0.0")
    _rolled_back(moves, job, f"late was plugged in while {guest} was being moved")
    names = {child["name"] for child in _ask(moves, guest, "qom-list", path="/machine/peripheral")}
    assert "late" in names
    moves.intact(guest, "host-a")


def test_a_device_that_is_unplugged_during_the_copy_ends_the_move(moves: Moves) -> None:
    guest = moves.boot(SCSI, SCSI, fill_mib=32)
    job = _under_way(moves, guest, "copy")
    _ask(moves, guest, "device_del", id="device1")
    _rolled_back(moves, job, f"device1 was unplugged while {guest} was being moved")
    names = {child["name"] for child in _ask(moves, guest, "qom-list", path="/machine/peripheral")}
    assert "device1" not in names
    assert _runstate(moves, guest) == "running"
