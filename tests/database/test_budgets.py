"""Budgets of hosts, links and the fleet, by the time of day, shared by disks and RAM of all moves."""

from datetime import UTC, datetime, time, timedelta

import pytest
from sqlalchemy import update

from drover.errors import PreconditionFailed
from models.budget import BandwidthHours, Hours
from models.database import transaction
from models.documents import MigrationOptions, Window
from models.job import Disk, Job, JobState, Step, StepState
from tests import factories
from tests.cli.support import drover
from workflows import budgets, fleet_limits
from workflows.budgets import Budgets, Link, Move, rate_at, shared
from workflows.estimate import Speed, Way
from workflows.migration import jobs
from workflows.migration.jobs import Changes
from workflows.selectors import Selector

MB = 10**6


@pytest.mark.parametrize(
    ("asked", "limits", "given"),
    [
        ({1: 0, 2: 0}, [], {1: 0, 2: 0}),
        ({1: 0, 2: 0}, [(100, [1, 2])], {1: 50, 2: 50}),
        ({1: 10, 2: 0}, [(100, [1, 2])], {1: 10, 2: 90}),
        ({1: 0, 2: 0, 3: 0}, [(100, [1, 2]), (30, [2, 3])], {1: 85, 2: 15, 3: 15}),
        ({1: 0, 2: 0, 3: 0}, [(90, [1, 2, 3]), (0, [1])], {1: 30, 2: 30, 3: 30}),
        ({1: 500, 2: 0}, [(100, [1])], {1: 100, 2: 0}),
        ({1: 7}, [], {1: 7}),
    ],
)
def test_what_one_move_cannot_take_is_shared_by_the_others(
    asked: dict[int, int], limits: list[tuple[int, list[int]]], given: dict[int, int]
) -> None:
    assert shared(asked, limits) == given


def test_no_budget_is_exceeded_and_all_that_can_be_used_is_used() -> None:
    asked = {number: (number % 3) * 40 for number in range(12)}
    limits = [(100, [0, 1, 2, 3]), (55, [2, 3, 4, 5, 6]), (400, list(range(12))), (30, [7])]
    given = shared(asked, limits)
    for rate, members in limits:
        assert sum(given[one] for one in members) <= rate
    for one, rate in given.items():
        full = [
            sum(given[other] for other in members) >= total - len(members)
            for total, members in limits
            if one in members
        ]
        assert rate == asked[one] or any(full), one


def _hours(start: str, end: str, rate: int, zone: str = "UTC") -> Hours:
    return Hours(window=Window(start=start, end=end, timezone=zone), bytes_per_s=rate)


@pytest.mark.parametrize(
    ("at", "rate"),
    [("07:59", 2000), ("08:00", 200), ("12:30", 50), ("19:59", 200), ("20:00", 2000), ("23:00", 0), ("02:00", 0)],
)
def test_the_first_hours_that_are_open_count_and_else_the_rate_of_all_day(at: str, rate: int) -> None:
    by_hours = BandwidthHours(
        hours=(_hours("12:00", "13:00", 50), _hours("08:00", "20:00", 200), _hours("22:00", "04:00", 0))
    )
    moment = datetime.combine(datetime(2026, 7, 1, tzinfo=UTC), time.fromisoformat(at), tzinfo=UTC)
    assert rate_at(2000, by_hours, moment) == rate
    assert rate_at(2000, None, moment) == 2000


def test_hours_are_meant_in_their_time_zone() -> None:
    by_hours = BandwidthHours(hours=(_hours("08:00", "20:00", 200, "Asia/Tokyo"),))
    assert rate_at(1, by_hours, datetime(2026, 7, 1, 23, 30, tzinfo=UTC)) == 200
    assert rate_at(1, by_hours, datetime(2026, 7, 1, 12, 30, tzinfo=UTC)) == 1


def test_a_link_covers_moves_between_hosts_with_these_labels_or_names() -> None:
    labels = {"a": {"rack": "r1", "host": "a"}, "b": {"rack": "r2", "host": "b"}, "c": {"rack": "r1", "host": "c"}}
    out = Link(name="out", source=Selector.read("rack=r1"), destination=Selector.read("rack!=r1"), bytes_per_s=100)
    pair = Link(name="pair", source=Selector.read("host=a"), destination=Selector.read("host=b|c"), bytes_per_s=40)
    drawn_up = Budgets(hosts={"a": 0, "b": 70}, labels=labels, links=(out, pair))
    lowest = {ends: drawn_up.lowest(*ends) for ends in (("a", "b"), ("c", "b"), ("a", "c"), ("b", "a"), ("c", "a"))}
    assert lowest == {("a", "b"): 40, ("c", "b"): 100, ("a", "c"): 40, ("b", "a"): 70, ("c", "a"): 0}
    moves = {
        1: Move(source="a", destination="b"),
        2: Move(source="c", destination="b"),
        3: Move(source="b", destination="a"),
    }
    assert drawn_up.shares(moves) == {1: 40, 2: 60, 3: 70}
    way = Way(source="a", destination="b", asked_bytes_per_s=30)
    assert Speed(budgets=drawn_up).of(way).limit_per_s == 30
    assert Speed(budgets=drawn_up).of(Way(source="a", destination="b", asked_bytes_per_s=50)).limit_per_s == 40


@pytest.fixture
def moves(database: None) -> tuple[int, int]:
    """Two moves whose disks are copied, from one host to two."""
    for name in ("one", "two", "three"):
        factories.host(name)
    for name in ("g1", "g2"):
        factories.guest(name, on="one")
    numbers = factories.job("g1", "two", state=JobState.RUNNING), factories.job("g2", "three", state=JobState.RUNNING)
    factories.prepared(*numbers)
    return numbers


def _rates(numbers: tuple[int, int]) -> list[int]:
    return [budgets.rate_of(factories.load(number)) for number in numbers]


def test_a_budget_is_shared_by_disks_and_ram_and_not_by_moves_that_send_nothing(moves: tuple[int, int]) -> None:
    budgets.define("all", None, None, 100 * MB, None)
    assert _rates(moves) == [50 * MB, 50 * MB]
    with transaction() as session:
        session.execute(update(Disk).where(Disk.job_id == moves[1]).values(ready_at=datetime.now(UTC)))
    assert _rates(moves)[0] == 100 * MB, "the other one is held in sync"
    with transaction() as session:
        sends = (Step.job_id == moves[1]) & (Step.name == "migrate_ram") & (Step.side == "source")
        session.execute(update(Step).where(sends).values(state=StepState.RUNNING))
    assert _rates(moves) == [50 * MB, 50 * MB], "it sends its RAM"
    with transaction() as session:
        session.execute(
            update(Job).where(Job.id == moves[1]).values(options=MigrationOptions(bandwidth_bytes_per_s=MB))
        )
    assert _rates(moves) == [99 * MB, MB]


def test_a_move_obeys_its_own_limit_from_the_moment_that_it_is_changed(moves: tuple[int, int]) -> None:
    known_to_its_worker = factories.load(moves[0])
    jobs.change(moves[0], Changes(bandwidth_bytes_per_s=5 * MB))
    assert budgets.rate_of(known_to_its_worker) == 5 * MB
    assert budgets.rate_of(known_to_its_worker, asked_bytes_per_s=0) == 0, "what it may take once that is lifted"


@pytest.mark.parametrize("state", [StepState.PENDING, StepState.RUNNING])
def test_a_move_whose_images_are_being_prepared_or_wait_for_that_takes_no_share_from_others(
    moves: tuple[int, int], state: StepState
) -> None:
    budgets.define("all", None, None, 100 * MB, None)
    with transaction() as session:
        preparing = Step.job_id == moves[1], Step.name == "prepare_dest_image"
        session.execute(update(Step).where(*preparing).values(state=state))
    assert _rates(moves) == [100 * MB, 50 * MB], "the second one asks for its own share"


def test_a_change_of_any_budget_holds_at_the_next_look(moves: tuple[int, int]) -> None:
    assert _rates(moves) == [0, 0]
    now = datetime.now(UTC)
    soon = f"{now - timedelta(minutes=5):%H:%M}-{now + timedelta(minutes=5):%H:%M}"
    hours = budgets.hours([f"{soon}=10M/s"], "UTC", {"10M/s": 10 * MB})
    fleet_limits.describe_host("one", {"bandwidth_bytes_per_s": 80 * MB, "bandwidth_hours": hours})
    assert _rates(moves) == [5 * MB, 5 * MB]
    fleet_limits.describe_host("one", {"bandwidth_hours": None})
    assert _rates(moves) == [40 * MB, 40 * MB]
    budgets.define("slow", None, "host=three", MB, None)
    assert _rates(moves) == [79 * MB, MB]
    budgets.remove("slow")
    assert _rates(moves) == [40 * MB, 40 * MB]


@pytest.mark.usefixtures("moves")
def test_what_cannot_be_a_budget_is_refused() -> None:
    for wrong in (("a b", None, 0), ("x", "rack>1", 0), ("x", None, 5)):
        with pytest.raises(PreconditionFailed):
            budgets.define(wrong[0], wrong[1], None, wrong[2], None)
    with pytest.raises(PreconditionFailed, match="there is no budget 'x'"):
        budgets.remove("x")


@pytest.mark.usefixtures("moves")
def test_budgets_are_set_listed_and_removed_on_the_command_line() -> None:
    by_hours = ("--bandwidth-at", "08:00-20:00=200M/s")
    words = ("budget", "set", "uplink", "--from", "host=one", "--bandwidth", "1G/s", *by_hours)
    said = drover(*words)
    assert said.stdout == (
        "uplink: 1.0 GB/s for all moves from host=one to all hosts, 08:00-20:00 UTC: 200.0 MB/s\n"
    ), said.output
    assert "uplink" in drover("budget", "list").stdout
    told = drover("host", "set", "one", *by_hours).stdout
    assert "bandwidth-hours 08:00-20:00 UTC: 200.0 MB/s" in told
    assert "bandwidth-hours" not in drover("host", "set", "one", "--bandwidth-at", "").stdout
    assert drover("budget", "remove", "uplink").exit_code == 0
    for wrong in ("08:00=1M/s", "08:00-20:00", "08:00-20:00=5", "08:00-20:00=1B/s"):
        assert drover("host", "set", "one", "--bandwidth-at", wrong).exit_code == 2, wrong
    within = ("--bandwidth-at", "10:00-12:00=1G/s")
    assert drover("host", "set", "one", *within, *by_hours).exit_code == 0
    hidden = drover("host", "set", "one", *by_hours, *within)
    assert (hidden.exit_code, "10:00-12:00=1G/s never holds" in hidden.stderr) == (2, True)
