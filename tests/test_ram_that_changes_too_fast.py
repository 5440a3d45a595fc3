"""A guest whose RAM changes as fast as it is sent: its move says so within minutes, and is answered at each rung."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import select

from models.database import transaction
from models.fleet import Limits
from models.job import Event, Job, JobState
from tests import factories
from tests.helpers import Moves, until
from workflows.migration import jobs
from workflows.migration.jobs import Changes

pytestmark = pytest.mark.guests

MINUTES_S = 180.0


@pytest.fixture
def asked_briefly() -> Iterator[None]:
    """Operators are asked for ten seconds."""
    yield
    factories.limits(stalled_after=Limits().stalled_after)


def rungs(job_id: int) -> list[str]:
    """What was done about it, in that order."""
    with transaction() as session:
        story = session.scalars(select(Event.action).where(Event.job_id == job_id).order_by(Event.id)).all()
    return [action for action in story if action in {"longer", "asked", "given_up"}]


def asks(moves: Moves, job_id: int) -> str:
    """Why the job waits, once it has an answer to ask for."""

    def reason() -> str:
        why = moves.job(job_id).wait_reason or ""
        return why if "changes as fast as it is sent" in why else ""

    return str(until("an operator is asked", reason, MINUTES_S, every_s=0.5))


def test_the_limit_is_raised_then_somebody_is_asked_then_the_copy_is_kept_and_a_longer_pause_completes_it(
    moves: Moves, asked_briefly: None
) -> None:
    guest = moves.boot(dirty_mib=32, dirty_rate=64, write_rate=0)
    job = moves.submit(guest, "host-b", max_downtime_ms=1, most_downtime_ms=2, bandwidth_bytes_per_s=24 * factories.MB)
    assert f"`drover job set {job.id} --max-downtime-ms" in asks(moves, job.id)
    assert rungs(job.id) == ["longer", "asked"]
    factories.limits(stalled_after=timedelta(seconds=10))
    kept = until("the attempt is given up", lambda: _held(moves, job.id), MINUTES_S, every_s=0.5)
    assert kept.state is JobState.RUNNING
    assert f"`drover job release {job.id}`" in str(kept.wait_reason)
    moves.intact(guest, "host-a")
    jobs.change(job.id, Changes(max_downtime_ms=20_000))
    jobs.release(job.id)
    done = moves.ended(job.id)
    moves.done(done)
    moves.intact(guest, "host-b")


def _held(moves: Moves, job_id: int) -> Job | None:
    job = moves.job(job_id)
    return job if job.hold and all(disk.ready_at for disk in job.disks) else None
