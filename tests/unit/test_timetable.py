"""When the moves of a drain begin and end: how they share a budget, and what falls into which night."""

from datetime import UTC, datetime

import pytest

from models.activity import Activity
from models.documents import Window
from models.fleet import Limits
from workflows.budgets import Budgets
from workflows.capacity import Size
from workflows.drain.placement import Candidate, Placement
from workflows.estimate import LAST_STRETCH_S, Habits, Speed
from workflows.timetable import Open, timetable, total_s

MB = 10**6
EVENING = datetime(2026, 11, 27, 21, tzinfo=UTC)


def move(name: str, disk: int, source: str = "one", activity: Activity | None = None, memory: int = 0) -> Placement:
    size = Size(cpus=1, memory_bytes=memory, disk_bytes=disk)
    return Placement(candidate=Candidate(name=name, source=source, size=size, activity=activity), destination="two")


def limits(moves: int) -> Limits:
    return Limits(max_outgoing=moves, max_incoming=moves, max_moves=moves)


def test_moves_that_are_under_way_together_share_the_budget_of_their_host() -> None:
    speed = Speed(fixed_s=0, budgets=Budgets(hosts={"one": 10 * MB}))
    found = timetable([move("small", 100 * MB), move("large", 300 * MB)], speed, limits(2))
    assert found["small"].ends_s == pytest.approx(20)
    assert found["large"].ends_s == pytest.approx(40), "once it is alone it has all of it"
    assert total_s([move("small", 100 * MB), move("large", 300 * MB)], speed, limits(1)) == pytest.approx(40)


def test_the_last_stretch_of_a_guest_that_writes_is_longer_where_its_share_of_the_budget_is_small() -> None:
    speed = Speed(fixed_s=0, budgets=Budgets(hosts={"one": 10 * MB}))
    writes = Activity(seconds=1, written_per_s=0.3 * MB, writes_per_s=75)
    alone, together = (
        timetable([move(name, 47 * MB, activity=writes) for name in names], speed, limits(2)) for names in ("a", "ab")
    )
    assert alone["a"].ends_s == pytest.approx(47 / 9.7 + 1, rel=0.01), "half of its limit is dirtied again"
    assert together["a"].ends_s == together["b"].ends_s == pytest.approx(47 / 4.7 + LAST_STRETCH_S)


def test_ram_that_changes_is_sent_again_and_more_of_it_where_its_share_of_the_budget_is_small() -> None:
    speed = Speed(fixed_s=0, budgets=Budgets(hosts={"one": 10 * MB}))
    changes = Activity(seconds=1, dirty_per_s=2.5 * MB)
    alone, together = (
        timetable([move(name, 0, activity=changes, memory=75 * MB) for name in names], speed, limits(2))
        for names in ("a", "ab")
    )
    assert alone["a"].ends_s == pytest.approx(75 / 7.5)
    assert together["a"].ends_s == together["b"].ends_s == pytest.approx(75 / 2.5)


def test_one_after_the_other_begins_as_soon_as_there_is_a_slot() -> None:
    speed = Speed(disk_bytes_per_s=10 * MB, fixed_s=5)
    found = timetable([move("a", 50 * MB), move("b", 100 * MB), move("c", 50 * MB)], speed, limits(2))
    assert [found[name].begins_s for name in "abc"] == pytest.approx([0, 0, 10])
    assert [found[name].ends_s for name in "abc"] == pytest.approx([10, 15, 20])


def test_what_does_not_fit_into_a_night_waits_for_the_next_one() -> None:
    speed = Speed(disk_bytes_per_s=MB, fixed_s=0)
    hours = Open(window=Window(start="22:00", end="23:00", timezone="UTC"), now=EVENING)
    found = timetable([move(name, 2400 * MB) for name in "ab"], speed, limits(1), hours=hours)
    hour, day = 3600, 86400
    assert found["a"].begins_s == pytest.approx(hour)
    assert found["b"].begins_s == pytest.approx(day + hour)
    small = timetable([move(name, 1200 * MB) for name in "abc"], speed, limits(1), hours=hours)
    assert [one.begins_s // day for one in small.values()] == [0, 0, 0], "three of twenty minutes fill the hour"


def test_what_the_limits_never_let_begin_has_no_time() -> None:
    assert timetable([move("web", MB)], Speed(), Limits.model_construct(max_outgoing=0)) == {}


def test_three_guests_that_share_a_budget_are_expected_to_take_what_such_a_drain_took() -> None:
    """By bench/results/estimates.csv: 27.3, 27.3 and 12.9 s, of which disks 13.6, 13.6 and 4.4 s. No two of them are
    seen to write the same, so no two have copied all of it at the same moment.
    """
    habits = Habits(sent_bytes=110 * MB, downtimes_ms=[])
    speed = Speed(
        disk_bytes_per_s=400 * MB,
        ram_bytes_per_s=400 * MB,
        fixed_s=4.5,
        guests=dict.fromkeys("abc", habits),
        budgets=Budgets(hosts={"one": 24 << 20}),
    )
    seen = {"a": 196.3, "b": 200.3, "c": 197.1}
    writes = {name: Activity(seconds=1, written_per_s=per_s * 4096, writes_per_s=per_s) for name, per_s in seen.items()}
    found = timetable([move(name, 84 * MB, activity=writes[name]) for name in "abc"], speed, limits(2))
    assert [found[name].takes_s for name in "abc"] == pytest.approx([27.3, 27.3, 12.9], rel=0.1)
