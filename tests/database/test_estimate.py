"""What moves take is learnt from moves that were made."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import literal, update
from sqlalchemy.dialects.postgresql import JSONB

from models.database import transaction
from models.documents import RamProgress
from models.fleet import Limits
from models.job import Job, JobState, Side, StepState
from tests.factories import GB, guest, host, job
from workflows import estimate
from workflows.capacity import Size
from workflows.drain.placement import Candidate, Placement

pytestmark = pytest.mark.usefixtures("database")

BEGUN = datetime(2026, 11, 23, 12, tzinfo=UTC)


def moved(number: int, *, held_s: int = 0) -> None:
    """A move of 10 GB of disk in 100 s and 1 GB of memory in 20 s, with 5 s around it."""
    guest(f"g{number}", "one")
    job_id = job(f"g{number}", "two", state=JobState.DONE)
    with transaction() as session:
        made = session.get_one(Job, job_id)
        made.ram = RamProgress(total=GB)
        made.started_at = BEGUN
        copied = BEGUN + timedelta(seconds=103)
        sent = copied + timedelta(seconds=20 + held_s)
        made.disks[0].ready_at = copied
        made.finished_at = sent + timedelta(seconds=2)
        for step in made.steps:
            step.state = StepState.DONE
            if (step.name, step.side) == ("await_sync", Side.SOURCE):
                step.started_at, step.finished_at = BEGUN + timedelta(seconds=3), sent - timedelta(seconds=20)
            if (step.name, step.side) == ("migrate_ram", Side.SOURCE):
                step.started_at, step.finished_at = sent - timedelta(seconds=20), sent


def test_before_any_move_the_figures_are_assumed(database: None) -> None:
    with transaction() as session:
        assert estimate.speed(session).moves == 0


@pytest.mark.parametrize("held_s", [0, 3600])
def test_the_figures_are_those_of_the_last_moves_and_waiting_for_a_release_does_not_count(held_s: int) -> None:
    for name in ("one", "two"):
        host(name)
    for number in range(3):
        moved(number, held_s=held_s)
    with transaction() as session:
        found = estimate.speed(session)
    assert found.moves == 3
    assert found.disk_bytes_per_s == pytest.approx(GB / 10)
    assert found.ram_bytes_per_s == pytest.approx(GB / 20)
    assert found.fixed_s == pytest.approx(5)
    size = Size(cpus=1, memory_bytes=GB, disk_bytes=10 * GB)
    assert found.move_s(size) == pytest.approx(125)
    assert found.switch_s(size) == pytest.approx(25)


@pytest.mark.parametrize("ram", [[], "much", {"total": "much"}])
def test_one_odd_record_spoils_no_estimate(database: None, ram: object) -> None:
    for name in ("one", "two"):
        host(name)
    for number in range(2):
        moved(number)
    with transaction() as session:
        session.execute(update(Job).where(Job.guest == "g0").values(ram=literal(ram, JSONB)))
        assert estimate.speed(session).disk_bytes_per_s == pytest.approx(GB / 10)


def test_a_limit_of_nothing_is_no_disaster_for_a_forecast() -> None:
    size = Size(cpus=1, memory_bytes=GB, disk_bytes=GB)
    never = Placement(candidate=Candidate(name="web", source="one", size=size), destination="two")
    limits = Limits.model_construct(max_outgoing=0)
    assert estimate.total_s([never], estimate.Speed(), limits) == 0
