"""What the guest or its owner do while a move is under way: the job goes on or is undone, and says why."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lab.guest.spec import DiskSpec
from models.job import Job, JobState
from tests.support import MIB, Moves, until
from workers.qemu.monitor import CommandRefused, connect
from workflows import guests

pytestmark = pytest.mark.guests


def by_hand(moves: Moves, guest: str, command: str, **arguments: Any) -> Any:
    """What the guest's owner does on its second monitor, wherever it lives."""
    host = guests.known_guest(guest).host

    async def execute() -> Any:
        async with connect(moves.lab.host(host).guests / guest / "watch.sock") as monitor:
            return await monitor.execute(command, **arguments)

    return asyncio.run(execute())


def copying(moves: Moves, guest: str) -> Job:
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=16 * MIB)
    until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))
    return job


def sending_ram(moves: Moves, guest: str) -> Job:
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=16 * MIB)
    until("RAM is sent", lambda: any(line["event"] == "migrating" for line in moves.journal(job, "host-a", "source")))
    return job


def ticks_on(moves: Moves, guest: str, host: str) -> bool:
    console = moves.lab.host(host).guests / guest / "console.log"
    return console.exists() and b"tick" in console.read_bytes()


@pytest.mark.parametrize("phase", [copying, sending_ram])
def test_a_guest_that_is_reset_during_its_move_boots_again_and_is_moved_all_the_same(moves: Moves, phase: Any) -> None:
    guest = moves.boot(fill_mib=32)
    job = phase(moves, guest)
    by_hand(moves, guest, "system_reset")
    moves.done(moves.ended(job.id))
    until("it has booted there", lambda: ticks_on(moves, guest, "host-b"), 90)


@pytest.mark.parametrize("phase", [copying, sending_ram])
def test_a_guest_that_powers_off_during_its_move_ends_the_job_and_nothing_is_left(moves: Moves, phase: Any) -> None:
    guest = moves.boot(fill_mib=32)
    job = phase(moves, guest)
    by_hand(moves, guest, "quit")
    ended = moves.ended(job.id)
    assert ended.state is JobState.UNDONE, moves.story(job.id)
    assert "powered off or crashed" in (ended.error or "")
    moves.nothing_left(ended)
    assert Path(ended.disks[0].source_path).exists()


def test_a_guest_that_its_owner_pauses_during_the_copy_stays_paused_at_the_source(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = copying(moves, guest)
    by_hand(moves, guest, "stop")
    ended = moves.ended(job.id)
    assert ended.state is JobState.UNDONE
    assert "is paused" in (ended.error or "")
    assert by_hand(moves, guest, "query-status")["status"] == "paused"
    by_hand(moves, guest, "cont")
    moves.nothing_left(ended)
    moves.intact(guest, "host-a")


def test_a_device_that_is_plugged_in_during_the_copy_has_the_job_undone_and_stays(moves: Moves) -> None:
    guest = moves.boot(DiskSpec(size_bytes=64 * MIB, bus="virtio-scsi"), fill_mib=32)
    job = copying(moves, guest)
    by_hand(moves, guest, "device_add", driver="scsi-cd", id="plugged", bus="scsi0.0", **{"scsi-id": 5})
    ended = moves.ended(job.id)
    assert ended.state is JobState.UNDONE
    assert "plugged" in (ended.error or "")
    moves.nothing_left(ended)
    moves.intact(guest, "host-a")


def test_a_disk_cannot_be_resized_while_it_is_copied_and_the_move_goes_on(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = copying(moves, guest)
    with pytest.raises(CommandRefused):
        by_hand(moves, guest, "block_resize", **{"node-name": "disk0", "size": 128 * MIB})
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")
