"""The lease, heartbeat and republishing that a host has by default: the labs of all other tests have shorter ones."""

from collections.abc import Iterator

import pytest

from lab import fleet
from models.database import transaction
from models.job import Attempt
from tests import labs
from tests.helpers import MIB, Moves, until
from workers.process import processes

pytestmark = pytest.mark.guests


@pytest.fixture
def moves() -> Iterator[Moves]:
    """Guests of a lab with all defaults."""
    with labs.temporary(settings={}) as lab:
        made = Moves(lab)
        yield made
        made.end()


@pytest.mark.thorough
def test_by_default_a_dead_worker_loses_its_claim_and_a_restarted_one_ends_the_move(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=8 * MIB)
    until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))
    [worker] = processes.find(moves.lab.mark("worker-host-a"))
    worker.kill()
    until("its claim runs out", lambda: "expired" in _outcomes(job.id))
    fleet.start_worker(moves.lab, moves.lab.host("host-a"))
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")


def _outcomes(job_id: int) -> list[str | None]:
    with transaction() as session:
        return [attempt.outcome for attempt in session.query(Attempt).where(Attempt.job_id == job_id)]
