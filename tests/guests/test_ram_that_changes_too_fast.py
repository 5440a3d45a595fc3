"""A guest whose RAM changes as fast as it is sent: its move says so within minutes, and is answered at each rung."""

import pytest
from sqlalchemy import select

from models.database import transaction
from models.job import Event
from tests import factories
from tests.helpers import Moves, until
from workflows.migration import jobs
from workflows.migration.jobs import Changes

pytestmark = pytest.mark.guests

MINUTES_S = 180.0


def rungs(job_id: int) -> list[str]:
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
    assert rungs(job.id) == ["longer", "asked"]
    jobs.change(job.id, Changes(max_downtime_ms=20_000))
    done = moves.ended(job.id)
    moves.done(done)
    moves.intact(guest, "host-b")
