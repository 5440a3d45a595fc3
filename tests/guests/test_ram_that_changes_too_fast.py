"""A guest whose RAM or disks change as fast as they are sent: its move says so within minutes, and takes measures."""

import asyncio

import pytest
from sqlalchemy import select

from lab import fleet
from models.database import transaction
from models.documents import Measure
from models.job import Event, JobState
from tests import factories
from tests.helpers import Moves, until
from workers.process import processes
from workers.qemu.monitor import connect
from workflows.migration import jobs
from workflows.migration.jobs import Changes

pytestmark = [pytest.mark.thorough, pytest.mark.guests]

MINUTES_S = 180.0


def measures(job_id: int) -> list[str]:
    """What was done about it, in that order."""
    with transaction() as session:
        actions = session.scalars(select(Event.action).where(Event.job_id == job_id).order_by(Event.id)).all()
    return [action for action in actions if action in {"longer", "asked"}]


def asks(moves: Moves, job_id: int) -> str:
    """Why the job waits, once it has an answer to ask for."""

    def reason() -> str:
        why = moves.job(job_id).wait_reason or ""
        return why if "changes as fast as it is sent" in why else ""

    try:
        return str(until("an operator is asked", reason, MINUTES_S, every_s=0.5))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{moves.job(job_id).ram}\n{moves.events(job_id)}") from error


def test_the_limit_is_raised_as_far_as_allowed_then_somebody_is_asked_and_a_longer_pause_completes_the_move(
    moves: Moves,
) -> None:
    guest = moves.boot(dirty_mib=32, dirty_rate=64, write_rate=0)
    job = moves.submit(guest, "host-b", max_downtime_ms=1, most_downtime_ms=2, bandwidth_bytes_per_s=8 * factories.MB)
    assert f"`drover job set {job.id} --max-downtime-ms" in asks(moves, job.id)
    assert measures(job.id) == ["longer", "asked"]
    jobs.change(job.id, Changes(max_downtime_ms=20_000))
    done = moves.ended(job.id)
    moves.done(done)
    moves.intact(guest, "host-b")


def limits_of(moves: Moves, guest: str) -> int:
    """What the guest may write to its disk in a second; 0: as much as it likes."""

    async def ask() -> int:
        async with connect(str(moves.lab.host("host-a").guests / guest / "watch.sock")) as monitor:
            [drive] = [one["inserted"] for one in await monitor.query("query-block") if "inserted" in one]
            return int(drive["bps_wr"])

    return asyncio.run(ask())


def test_a_guest_that_outruns_its_copy_is_slowed_and_has_its_own_limits_again_although_the_worker_died(
    moves: Moves,
) -> None:
    guest = moves.boot(write_rate=100, window_mib=16)
    ladder = (Measure.SLOW_WRITES, Measure.ASK)
    slow = {"bandwidth_bytes_per_s": factories.MB, "slowest_writes_bytes_per_s": 1 << 16}
    job = moves.submit(guest, "host-b", ladder=ladder, **slow)
    until("it is slowed", lambda: limits_of(moves, guest), MINUTES_S, every_s=0.5)
    assert "may write" in moves.events(job.id)
    until("that is shown", lambda: (pace := moves.job(job.id).pace) is not None and pace.slowed_per_s, 20)
    for process in processes.find(moves.lab.mark("worker-host-a")):
        process.kill()
    jobs.cancel(job.id)
    fleet.start_worker(moves.lab, moves.lab.host("host-a"))
    assert moves.ended(job.id).state is JobState.ROLLED_BACK, moves.events(job.id)
    assert limits_of(moves, guest) == 0
    moves.intact(guest, "host-a")
