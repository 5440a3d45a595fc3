"""What moves take is learnt from moves that were made."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import literal, select, update
from sqlalchemy.dialects.postgresql import JSONB

from models.activity import Activity
from models.database import transaction
from models.documents import Downtime, MigrationOptions, Pace, RamProgress
from models.fleet import FleetLimits, Limits
from models.job import Job, JobState, Side, StepState
from tests.factories import GB, guest, host, job
from workflows import estimate
from workflows.budgets import Budgets, Move
from workflows.capacity import Size
from workflows.drain.placement import Candidate, Placement
from workflows.estimate import Habits, Speed, Way
from workflows.timetable import total_s

BEGUN = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def hosts(database: None) -> None:
    for name in ("one", "two"):
        host(name)


def of_guest(name: str, asked_bytes_per_s: int = 0, activity: Activity | None = None) -> Way:
    return Way(source="", destination="", guest=name, asked_bytes_per_s=asked_bytes_per_s, activity=activity)


def moved(
    number: int, *, held_s: int = 0, copy_s: int = 100, limit: int = 0, ram: int = GB, ms: float | None = None
) -> None:
    """A move of 10 GB of disk in 100 s and 1 GB of memory in 20 s, with 5 s around it."""
    guest(f"g{number}", "one")
    options = MigrationOptions(bandwidth_bytes_per_s=limit)
    job_id = job(f"g{number}", "two", state=JobState.DONE, options=options)
    with transaction() as session:
        made = session.get_one(Job, job_id)
        made.ram = RamProgress(total=GB, transferred=ram)
        made.downtime = Downtime(ms=ms)
        made.started_at = BEGUN
        copied = BEGUN + timedelta(seconds=3 + copy_s)
        sent = copied + timedelta(seconds=20 + held_s)
        made.disks[0].ready_at = copied
        made.finished_at = sent + timedelta(seconds=2)
        for step in made.steps:
            step.state = StepState.DONE
            if (step.name, step.side) == ("await_sync", Side.SOURCE):
                step.started_at, step.finished_at = BEGUN + timedelta(seconds=3), sent - timedelta(seconds=20)
            if (step.name, step.side) == ("migrate_ram", Side.SOURCE):
                step.started_at, step.finished_at = sent - timedelta(seconds=20), sent


def test_before_any_move_the_figures_are_assumed() -> None:
    with transaction() as session:
        assert estimate.speed(session).moves == 0


def test_a_move_whose_end_its_host_has_taken_away_and_one_that_took_ages_break_no_estimate() -> None:
    for number in range(3):
        moved(number)
    with transaction() as session:
        without, long, _ = session.scalars(select(Job).order_by(Job.id))
        without.finished_at, long.started_at = None, datetime(1000, 1, 2, tzinfo=UTC)
    with transaction() as session:
        found = estimate.speed(session)
    assert found.moves == 2
    assert found.fixed_s <= estimate.LONGEST_S


@pytest.mark.parametrize("held_s", [0, 3600])
def test_the_figures_are_those_of_the_last_moves_and_waiting_for_a_release_does_not_count(held_s: int) -> None:
    for number in range(3):
        moved(number, held_s=held_s)
    with transaction() as session:
        found = estimate.speed(session)
    assert found.moves == 3
    assert found.disk_bytes_per_s == pytest.approx(GB / 10)
    assert found.ram_bytes_per_s == pytest.approx(GB / 20)
    assert found.fixed_s == pytest.approx(5)
    size = Size(cpus=1, memory_bytes=GB, disk_bytes=10 * GB)
    assert found.of().move_s(size) == pytest.approx(125)
    assert found.of().switch_s(size) == pytest.approx(25)


@pytest.mark.parametrize("ram", [[], "much", {"total": "much"}])
def test_one_odd_record_spoils_no_estimate(ram: object) -> None:
    for number in range(2):
        moved(number)
    with transaction() as session:
        session.execute(update(Job).where(Job.guest == "g0").values(ram=literal(ram, JSONB)))
        assert estimate.speed(session).disk_bytes_per_s == pytest.approx(GB / 10)


def test_a_limit_of_nothing_is_no_disaster_for_a_forecast() -> None:
    size = Size(cpus=1, memory_bytes=GB, disk_bytes=GB)
    never = Placement(candidate=Candidate(name="web", source="one", size=size), destination="two")
    limits = Limits.model_construct(max_outgoing=0)
    assert total_s([never], Speed(), limits) == 0


MB = 10**6
SIZE = Size(cpus=1, memory_bytes=GB, disk_bytes=10 * GB, allocated_bytes=GB)


def test_a_throttled_move_says_nothing_about_the_link_and_its_limit_does_not_lengthen_what_others_take() -> None:
    moved(0)
    moved(1, copy_s=1000, limit=10 * MB)
    with transaction() as session:
        found = estimate.speed(session)
    assert found.link_per_s(Way(source="one", destination="two")) == pytest.approx(GB / 10)
    assert found.ram_bytes_per_s == pytest.approx(GB / 20)
    assert found.fixed_s == pytest.approx(5)


def test_a_move_that_shared_a_budget_with_others_says_nothing_about_the_link_once_the_budget_is_gone() -> None:
    moved(0)
    moved(1, copy_s=2500)
    with transaction() as session:
        session.query(Job).where(Job.guest == "g1").one().pace = Pace(copied_under_per_s=4 * MB)
    with transaction() as session:
        assert estimate.speed(session).disk_bytes_per_s == pytest.approx(GB / 10)


@pytest.mark.parametrize("told", [None, [], {"total": "x"}, {"total": 10**400}, {"total": -1}])
def test_a_record_that_is_malformed_or_out_of_all_bounds_counts_as_none(told: object) -> None:
    assert estimate._count(told, "total") == 0


def test_a_limit_that_was_asked_for_counts_for_the_ram_also_where_the_copy_was_over_at_once() -> None:
    moved(0)
    moved(1, copy_s=0, limit=6 * MB, ram=GB // 10)
    with transaction() as session:
        session.query(Job).where(Job.guest == "g1").one().pace = Pace()
    with transaction() as session:
        assert estimate.speed(session).ram_bytes_per_s == pytest.approx(GB / 20)


def test_a_move_that_had_no_limit_says_how_fast_the_link_is_also_while_there_is_a_budget() -> None:
    moved(0)
    with transaction() as session:
        session.query(Job).where(Job.guest == "g0").one().pace = Pace()
        session.get_one(FleetLimits, True).bandwidth_bytes_per_s = 12 * MB
    with transaction() as session:
        assert estimate.speed(session).disk_bytes_per_s == pytest.approx(GB / 10)


def test_a_short_copy_under_a_limit_says_nothing_about_the_link_although_it_was_slower_than_that() -> None:
    moved(0)
    moved(1, copy_s=10)
    with transaction() as session:
        short = session.query(Job).where(Job.guest == "g1").one()
        short.pace, short.disks[0].bytes_total = Pace(copied_under_per_s=12 * MB), 40 * MB
    with transaction() as session:
        assert estimate.speed(session).disk_bytes_per_s == pytest.approx(GB / 10, rel=1e-6)


def test_a_small_copy_whose_beginning_takes_most_of_its_time_hardly_counts_for_the_link() -> None:
    moved(0)
    for number in (1, 2, 3):
        moved(number, copy_s=3)
    with transaction() as session:
        for made in session.query(Job).where(Job.guest != "g0"):
            made.disks[0].bytes_total = 10 * MB
        session.flush()
        assert estimate.speed(session).disk_bytes_per_s == pytest.approx(GB / 10, rel=0.01)


def test_a_guest_is_expected_to_be_as_it_was_the_last_times() -> None:
    moved(0, ram=GB // 10, ms=20)
    moved(1, ram=2 * GB, ms=80)
    moved(2, ram=GB, ms=60)
    with transaction() as session:
        found = estimate.speed(session)
    assert found.of(of_guest("g0")).ram_bytes(SIZE) == GB // 10
    assert found.of(of_guest("another")).ram_bytes(SIZE) == pytest.approx(3.1 * GB / 3)
    assert [found.of(of_guest(guest)).pause_ms for guest in ("g0", "another")] == [20, 60]


def test_a_pause_is_expected_as_the_last_times_and_as_that_of_guests_alike_as_long_as_there_were_few() -> None:
    habits = {
        "once": Habits(sent_bytes=GB, downtimes_ms=[90]),
        "often": Habits(sent_bytes=GB, downtimes_ms=[80, 400, 90]),
    }
    known = Speed(guests=habits, downtimes_ms={False: 20, True: 50})
    busy = Activity(seconds=1, dirty_per_s=5.0 * MB)
    expected = {name: known.of(of_guest(name, activity=busy)).pause_ms for name in ("once", "often", "another")}
    assert expected == {"once": 50, "often": 80, "another": 50}
    assert known.of(of_guest("another")).pause_ms == 20
    assert Speed(downtimes_ms={True: 50}).of().pause_ms == 50, "better than nothing"
    assert Speed().of().pause_ms is None


def test_a_limit_counts_the_data_and_a_guest_that_writes_all_the_time_keeps_the_copy_going_for_a_while() -> None:
    limited = of_guest("web", asked_bytes_per_s=10 * MB)
    assert Speed().of(limited).disks_s(SIZE) == pytest.approx(100)
    writes = of_guest("web", asked_bytes_per_s=10 * MB, activity=Activity(seconds=1, written_per_s=2.0 * MB))
    assert Speed().of(writes).disks_s(SIZE) == pytest.approx(125 + estimate.LAST_STRETCH_S)
    little = Activity(seconds=1, written_per_s=2.0 * MB, writes_per_s=2)
    assert Speed().of(of_guest("web", 10 * MB, little)).last_stretch_s == pytest.approx(0.25), "large ones"
    unlimited = of_guest("web", activity=Activity(seconds=1, written_per_s=2.0 * MB))
    assert Speed().of(unlimited).disks_s(SIZE) == pytest.approx(10)


def test_ram_that_changes_is_sent_again_unless_the_guests_own_moves_say_how_much_that_is() -> None:
    busy = Activity(seconds=1, dirty_per_s=50.0 * MB)
    assert Speed().of(of_guest("web", activity=busy)).ram_s(SIZE) == pytest.approx(20)
    known = Speed(guests={"web": Habits(sent_bytes=3 * GB, downtimes_ms=[])})
    assert known.of(of_guest("web", activity=busy)).ram_s(SIZE) == pytest.approx(30)


@pytest.mark.parametrize(
    ("activity", "said"),
    [
        (Activity(seconds=1, written_per_s=12.0 * MB), "it writes 12.0 MB/s to its disks and 10.0 MB/s can be copied"),
        (Activity(seconds=1, dirty_per_s=40.0 * MB), "it changes 40.0 MB/s of its RAM and 10.0 MB/s can be sent"),
        (Activity(seconds=1, written_per_s=1.0 * MB, dirty_per_s=1.0 * MB), None),
        (None, None),
    ],
)
def test_what_would_never_come_to_its_end_is_told_beforehand(activity: Activity | None, said: str | None) -> None:
    told = Speed().of(of_guest("web", asked_bytes_per_s=10 * MB, activity=activity)).never
    assert told is None if said is None else told is not None and told.startswith(said)


def test_a_move_that_begins_now_shares_the_budget_with_what_is_under_way_and_one_for_later_does_not() -> None:
    alone = Speed(budgets=Budgets(hosts={"one": 10 * MB}))
    among = Speed(budgets=alone.budgets, under_way={7: Move(source="one", destination="two")})
    way = Way(source="one", destination="two")
    assert alone.of(way).disks_s(SIZE) == pytest.approx(100)
    assert among.of(way).disks_s(SIZE) == pytest.approx(200)
    assert among.of(way).estimate(SIZE).limit_bytes_per_s == 5 * MB
