"""Disks that are copied ahead stay in sync while the guest writes, until somebody or the clock lets the rest follow."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from lab.guest.spec import DiskSpec
from models.database import transaction
from models.documents import MigrationOptions, Window
from models.job import Job, JobState
from tests.cli.support import document
from tests.helpers import MIB, Moves, until
from workers.process import processes
from workflows.migration import jobs
from workflows.submit_options import SubmitOptions

pytestmark = pytest.mark.guests


def in_sync(moves: Moves, job_id: int) -> Job | None:
    job = moves.job(job_id)
    return job if all(disk.ready_at for disk in job.disks) else None


def test_a_held_move_waits_in_sync_until_it_is_released_and_a_seeded_one_until_its_time(moves: Moves) -> None:
    guest = moves.boot()
    held = jobs.submit(guest, "host-b", terms=SubmitOptions(hold=True))
    before = until("both sides are equal", lambda: in_sync(moves, held.id))
    until("what the guest writes is copied too", lambda: _copied(moves, held.id) > before.disks[0].bytes_copied)
    assert moves.step_is(held.id, "await_sync", "running")
    jobs.release(held.id)
    moves.done(moves.ended(held.id))
    moves.intact(guest, "host-b")

    at = datetime.now(UTC) + timedelta(seconds=20)
    seeded = jobs.submit(guest, "host-a", terms=SubmitOptions(seed=True, not_before=at))
    until("it says what it waits for", lambda: "it begins at" in (moves.job(seeded.id).wait_reason or ""))
    assert in_sync(moves, seeded.id)
    done = moves.ended(seeded.id)
    moves.done(done)
    assert done.cutover_begun_at is not None
    assert done.cutover_begun_at >= at
    moves.intact(guest, "host-a")

    late = jobs.submit(guest, "host-b", terms=SubmitOptions(hold=True))
    until("both sides are equal", lambda: in_sync(moves, late.id))
    _opens(late.id, timedelta(hours=1))
    jobs.release(late.id)
    until("it waits for its window", lambda: "opens at" in (moves.job(late.id).wait_reason or ""))
    assert (moves.job(late.id).seed, moves.job(late.id).committed_at) == (True, None)
    opened_at = _opens(late.id, timedelta(hours=-1))
    done = moves.ended(late.id)
    moves.done(done)
    assert done.cutover_begun_at is not None
    assert done.cutover_begun_at >= opened_at
    moves.intact(guest, "host-b")


def _opens(job_id: int, after: timedelta) -> datetime:
    """Give a job a window of two hours that opens after that time; returns the present time."""
    at = datetime.now(UTC)
    with transaction() as session:
        window = Window(start=f"{at + after:%H:%M}", end=f"{at + after + timedelta(hours=2):%H:%M}", timezone="UTC")
        session.execute(update(Job).where(Job.id == job_id).values(window=window))
    return at


@pytest.mark.thorough
def test_a_held_move_that_is_cancelled_leaves_the_guest_where_it_is_and_the_next_one_sends_the_rest(
    moves: Moves,
) -> None:
    disks = DiskSpec(size_bytes=64 * MIB), DiskSpec(size_bytes=64 * MIB, format="raw")
    guest = moves.boot(*disks, write_rate=200, fill_mib=32)
    held = jobs.submit(guest, "host-b", terms=SubmitOptions(hold=True))
    until("both sides are equal", lambda: in_sync(moves, held.id))
    jobs.cancel(held.id)
    ended = moves.ended(held.id)
    assert ended.state is JobState.ROLLED_BACK
    moves.nothing_left(ended)
    moves.intact(guest, "host-a")
    assert document("migrate", guest, "--to", "host-b", "--dry-run")["way_back"] == held.id

    again = jobs.submit(guest, "host-b", options=MigrationOptions(verify=True), terms=SubmitOptions(hold=True))
    until("both sides are equal", lambda: in_sync(moves, again.id))
    wire, at = _sent(moves, again), moves.job(again.id).progress_at
    until("that is on record", lambda: moves.job(again.id).progress_at != at)
    copied = moves.job(again.id).disks
    assert wire <= 1.1 * sum(disk.bytes_copied for disk in copied), "what was recorded, and what the guest wrote since"
    changed = [disk.delta_bytes for disk in copied]
    assert all(each is not None and 0 < each < 8 * MIB for each in changed), (changed, moves.events(again.id))
    jobs.release(again.id)
    done = moves.ended(again.id)
    moves.done(done)
    moves.intact(guest, "host-b")
    assert document("image", "list", "--guest", guest, "--host", "host-b")["images"] == []


def _sent(moves: Moves, job: Job) -> int:
    """Bytes that the source's end of the streams has written: to the link, and its answers to QEMU."""
    [streams] = processes.find(f"{moves.directory(job, job.source)}/streams")
    counted = dict(line.split(": ") for line in Path(f"/proc/{streams.pid}/io").read_text().splitlines())
    return int(counted["wchar"])


def _copied(moves: Moves, job_id: int) -> int:
    return moves.job(job_id).disks[0].bytes_copied
