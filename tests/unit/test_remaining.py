"""How long a job still takes, from its submission to its end."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drover import words
from drover.views.remaining import copy_s, left_s
from models.documents import Estimate, Pace, RamProgress
from models.job import Disk, Job, JobState, Side
from workflows.estimate import LAST_STRETCH_S
from workflows.migration import links

BEGUN = datetime(2026, 11, 27, 12, tzinfo=UTC)
EXPECTED = Estimate(copy_s=100, switch_s=30, ram_s=20, copy_bytes=1000, link_bytes_per_s=10)


def after(seconds: float) -> datetime:
    return BEGUN + timedelta(seconds=seconds)


def job(*, copied: int = 0, **columns: Any) -> Job:
    made = Job(guest="web", source="one", destination="two", estimate=EXPECTED, **columns)
    made.steps = links.steps("one", "two")
    made.disks = [Disk(index=0, bytes_total=1000, bytes_copied=copied, bytes_first=1000 if copied else None)]
    return made


def copying(copied: int, **columns: Any) -> Job:
    """Since the fifth second."""
    made = job(copied=copied, state=JobState.RUNNING, started_at=BEGUN, **columns)
    sync = next(step for step in made.steps if (step.name, step.side) == ("await_sync", Side.SOURCE))
    sync.started_at = after(5)
    return made


def test_before_it_begins_all_of_the_estimate_is_left() -> None:
    assert left_s(job(state=JobState.QUEUED), BEGUN) == 130


def test_before_the_copy_the_time_runs_down() -> None:
    assert left_s(job(state=JobState.RUNNING, started_at=BEGUN), after(4)) == 126


def test_in_the_copy_its_own_rate_counts_and_not_what_was_expected() -> None:
    half = copying(500, progress_at=after(105))
    assert left_s(half, after(105)) == pytest.approx(100 + 20 + 5), "the copy, RAM, and what is left of the rest"
    assert left_s(half, after(106)) == pytest.approx(99 + 20 + 5), "a second in which nothing was recorded"


def sharing(limit_per_s: int, expected: Estimate) -> Job:
    """At half of its copy at 5 bytes per second, under this limit."""
    pace = Pace(copied_per_s=5, limit_per_s=limit_per_s, copied_under_per_s=limit_per_s)
    made = copying(500, progress_at=after(105), pace=pace)
    made.estimate = expected
    return made


@pytest.mark.parametrize(
    ("expected_under", "ram_s", "limit", "now_s"),
    [(0, 20, 5, 40), (10, 20, 5, 40), (10, 20, 10, 20), (5, 40, 10, 20), (5, 40, 1000, 4), (0, 20, 1000, 20)],
)
def test_ram_is_expected_at_the_limit_that_holds_now(expected_under: int, ram_s: int, limit: int, now_s: int) -> None:
    then = Estimate(
        copy_s=100,
        switch_s=10 + ram_s,
        ram_s=ram_s,
        ram_bytes=200,
        copy_bytes=1000,
        link_bytes_per_s=50,
        limit_bytes_per_s=expected_under,
    )
    assert left_s(sharing(limit, then), after(105)) == pytest.approx(100 + now_s + 5)


def test_a_guest_that_writes_keeps_a_copy_going_longer_once_it_has_to_share_the_budget() -> None:
    alone = EXPECTED.model_copy(update={"limit_bytes_per_s": 10, "dirtied_per_s": 6.0})
    assert left_s(sharing(5, alone), after(105)) == pytest.approx(100 + LAST_STRETCH_S + 20 + 5)


def test_a_copy_that_has_just_begun_says_nothing_yet() -> None:
    assert left_s(copying(1, progress_at=after(6)), after(6)) == pytest.approx(99 + 20 + 5)


def test_while_ram_is_sent_its_rate_counts() -> None:
    sending = copying(1000, ram=RamProgress(total=1000, remaining=300, bytes_per_s=100))
    sending.disks[0].ready_at = after(85)
    assert copy_s(sending) == 80
    assert left_s(sending, after(90)) == pytest.approx(3 + 5)


def test_past_the_point_of_no_return_the_rest_runs_down_and_never_below_nothing() -> None:
    crossed = copying(1000, ram=RamProgress(total=1000), committed_at=after(120))
    crossed.disks[0].ready_at = after(85)
    assert left_s(crossed, after(122)) == pytest.approx(3)
    assert left_s(crossed, after(300)) == 0.5


@pytest.mark.parametrize("state", [JobState.DONE, JobState.ROLLING_BACK, JobState.NEEDS_OPERATOR])
def test_nobody_knows_it_of_a_job_that_does_not_go_forward(state: JobState) -> None:
    assert left_s(job(state=state, started_at=BEGUN), after(9)) is None


@pytest.mark.parametrize("seconds", [1e15, math.inf, math.nan])
def test_a_time_beyond_all_bounds_is_told_as_a_very_long_one(seconds: float) -> None:
    assert words.clock(seconds) == "10000 d"
