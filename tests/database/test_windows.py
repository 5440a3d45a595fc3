"""Windows hold: no guest changes hosts outside of them, and what has not yet waits in sync or is rolled back."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func

from drover.controller import windows as controller
from models.base import now
from models.database import transaction
from models.documents import MigrationOptions, Window
from models.job import Event, Job, JobState
from tests.factories import guest, host, job, load
from tests.unit.test_schedule import NIGHT, utc
from workers.switchover import timing
from workers.switchover.journal import Journal, read
from workers.switchover.parameters import SourceParameters
from workers.switchover.source import Source, WindowClosed
from workflows import windows


@pytest.mark.parametrize(
    ("at", "left_s", "closed"),
    [
        ("2026-11-24T02:59:30", 30.0, False),
        ("2026-11-24T03:00:00", 0.0, True),
        ("2026-11-23T20:59:59", 0.0, True),
        ("2026-11-23T21:00:00", 6 * 3600.0, False),
    ],
)
def test_a_window_is_open_to_the_second(at: str, left_s: float, closed: bool) -> None:
    assert windows.left_s(NIGHT, utc(at)) == left_s
    assert windows.is_closed(NIGHT, utc(at)) is closed


def test_a_job_without_a_window_may_cross_at_any_time() -> None:
    assert windows.left_s(None, utc("2026-11-24T12:00")) is None
    assert not windows.is_closed(None, utc("2026-11-24T12:00"))


def source(folder: Path, closes_at: float | None) -> Source:
    """One at the point of no return: it has nothing left to do with its QEMU or its peer."""
    parameters = SourceParameters(
        qmp="/q", ram="/r", switchover="/s", images=[], journal=str(folder / "j"), mirrors=[], nodes=[], live=True,
        max_downtime_ms=1, bandwidth_bytes_per_s=0, deadline_s=1.0, devices=[], closes_at=closes_at,
    )  # fmt: skip
    made = object.__new__(Source)
    made.parameters, made.journal = parameters, Journal(folder / "j")
    return made


def test_the_last_moment_before_the_point_of_no_return_is_checked(tmp_path: Path) -> None:
    late = source(tmp_path, closes_at=timing.uptime())
    with pytest.raises(WindowClosed):
        asyncio.run(late.let_run())
    assert not read(tmp_path / "j").committed
    source(tmp_path, closes_at=timing.uptime() + 60).check_window(1.0)
    source(tmp_path, closes_at=None).check_window(1.0)


def passed() -> Window:
    """A window that has closed a minute ago."""
    at = datetime.now(UTC)
    return Window(start=f"{at - timedelta(hours=1):%H:%M}", end=f"{at - timedelta(minutes=1):%H:%M}", timezone="UTC")


def close(job_id: int) -> None:
    with transaction() as session:
        controller.close(session, session.get_one(Job, job_id, with_for_update=True), now(session))


def under_way(**columns: object) -> int:
    for name in ("one", "two"):
        host(name)
    guest("web", "one")
    return job("web", "two", state=JobState.RUNNING, window=passed(), **columns)


def sentences(job_id: int) -> list[str]:
    with transaction() as session:
        return [event.sentence for event in session.query(Event).where(Event.job_id == job_id).order_by(Event.id)]


@pytest.mark.usefixtures("database")
def test_at_the_end_of_its_window_a_job_waits_in_sync_for_the_next_and_says_so() -> None:
    number = under_way()
    close(number)
    found = load(number)
    assert (found.state, found.seed) == (JobState.RUNNING, True)
    assert "its disks are kept in sync until it opens again, at" in (found.wait_reason or "")
    assert found.wait_reason in sentences(number)
    close(number)
    assert len(sentences(number)) == 1


@pytest.mark.usefixtures("database")
def test_at_the_end_of_its_window_a_job_is_rolled_back_where_that_was_asked_for() -> None:
    number = under_way(options=MigrationOptions(window_end="rollback"))
    close(number)
    assert load(number).state in {JobState.ROLLING_BACK, JobState.ROLLED_BACK}
    assert any("rolled back, as --window-end asks" in sentence for sentence in sentences(number))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("column", ["cutover_begun_at", "committed_at"])
def test_an_attempt_that_is_under_way_is_left_to_the_switchover_process(column: str) -> None:
    number = under_way()
    with transaction() as session:
        setattr(session.get_one(Job, number), column, func.now())
    close(number)
    found = load(number)
    assert (found.state, found.seed) == (JobState.RUNNING, False)
