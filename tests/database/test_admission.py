"""Which jobs may begin is decided from rows: by limits, by room at the destination, by priority."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.exc import IntegrityError

from drover.errors import PreconditionFailed
from drover.settings import settings
from models.database import transaction
from models.documents import MigrationOptions, Window
from models.fleet import FleetLimits
from models.guest import Guest
from models.host import Host, HostState
from models.job import Disk, Job, JobState
from models.storage import Storage
from models.transitions import JobEvent
from tests.factories import GB, guest, happens, host, job, load
from workflows.migration import admission, jobs

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def hosts(database: None) -> None:
    for name in ("one", "two", "three", "four"):
        host(name)


def admit(**limits: Any) -> None:
    generous = {"max_outgoing": 100, "max_incoming": 100, "max_moves": 100}
    with transaction() as session:
        session.execute(update(FleetLimits).values(**generous | limits))
        admission.admit(session, settings())


def more_by(setting: str) -> str:
    return f"(move a guest away from it, or raise DROVER_{setting} there)"


def queued(count: int, on: str = "one", to: str = "two", **columns: object) -> list[int]:
    made = []
    for number in range(count):
        guest(f"{on}-{to}-{number}", on, memory_bytes=GB // 10, disk_bytes=GB)
        made.append(job(f"{on}-{to}-{number}", to, **columns))
    return made


def running(jobs: list[int]) -> int:
    return sum(load(number).state is JobState.RUNNING for number in jobs)


def test_no_more_moves_leave_a_host_than_may() -> None:
    jobs = queued(2, to="two") + queued(2, to="three")
    admit(max_outgoing=3)
    assert running(jobs) == 3
    assert load(jobs[3]).wait_reason == (
        "3 moves leave one already, 3 may at a time: `drover fleet set max-outgoing=4` lets another begin"
    )


def test_no_more_moves_arrive_at_a_host_than_may() -> None:
    jobs = queued(2, on="one") + queued(2, on="three")
    admit(max_incoming=1)
    assert running(jobs) == 1
    assert "1 move goes to two already" in (load(jobs[3]).wait_reason or "")


def test_no_more_moves_are_under_way_than_may() -> None:
    jobs = queued(2, on="one", to="two") + queued(2, on="three", to="four")
    admit(max_moves=3)
    assert running(jobs) == 3
    assert "3 moves are under way already" in (load(jobs[3]).wait_reason or "")


def test_a_job_that_waited_begins_once_another_has_ended() -> None:
    first, second = queued(2)
    admit(max_outgoing=1)
    with transaction() as session:
        happens(session, session.get_one(Job, first), JobEvent.FINISH)
    admit(max_outgoing=1)
    assert load(second).state is JobState.RUNNING
    assert load(second).wait_reason is None


def test_higher_priority_begins_first_then_the_older_one() -> None:
    low, older, newer = queued(1, to="two") + queued(2, to="three", priority=5)
    admit(max_outgoing=1)
    assert [load(number).state for number in (low, older, newer)] == ["queued", "running", "queued"]


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (
            {"memory_bytes": 5 * GB},
            f"two has 3.0 GB of memory left for guests, 2.0 GB too little {more_by('GUEST_MEMORY_BYTES')}",
        ),
        (
            {"disk_bytes": 60 * GB},
            f"two has 40.0 GB of disk left for guests, 20.0 GB too little {more_by('GUEST_DISK_BYTES')}",
        ),
        (
            {"cpus": 5},
            f"two has 3 CPUs left for guests, 5 needed {more_by('GUEST_CPUS')}",
        ),
    ],
)
def test_what_a_move_needs_is_reserved_at_its_destination(size: dict[str, int], why: str) -> None:
    for name in ("first", "second"):
        guest(name, "one", **size)
    first, second = job("first", "two"), job("second", "two")
    admit()
    assert (load(first).state, load(second).state) == (JobState.RUNNING, JobState.QUEUED)
    assert load(second).wait_reason == why


def test_guests_that_live_there_and_images_kept_there_count() -> None:
    guest("resident", "two", memory_bytes=7 * GB, disk_bytes=85 * GB)
    guest("left", "two", memory_bytes=0, disk_bytes=0)
    former = job("left", "three", state=JobState.DONE)
    with transaction() as session:
        session.get_one(Guest, "left").host = "three"
        session.get_one(Disk, (former, 0)).retired_until = func.now()
    guest("web", "one")
    waits = job("web", "two")
    admit()
    assert load(waits).wait_reason == "two has 5.0 GB of disk left for guests, 5.0 GB too little " + more_by(
        "GUEST_DISK_BYTES"
    )


HUGE = {"disk_bytes": 1024 * GB, "allocated_bytes": GB // 100}


def storage(on: str, thin_factor: float) -> None:
    with transaction() as session:
        session.add(Storage(host=on, name="guests", driver="folder", place="/", thin_factor=thin_factor))


def test_a_thin_disk_counts_with_what_it_takes_and_a_part_of_what_it_may_write() -> None:
    guest("huge", "two", **HUGE)  # a terabyte on a host of 100 GB, of which 5 % count
    guest("web", "one")
    waits = job("web", "two")
    admit()
    assert load(waits).state is JobState.RUNNING
    guest("huge-too", "three", **HUGE)
    too_much = job("huge-too", "two")
    admit()
    why = load(too_much).wait_reason or ""
    assert why.startswith("two has 38.8 GB of disk left for guests, 12.4 GB too little (")
    assert "drover storage set two guests --thin-factor N" in why


@pytest.mark.parametrize(("factor", "state"), [(1, JobState.QUEUED), (11, JobState.QUEUED), (12, JobState.RUNNING)])
def test_the_storages_factor_says_how_far_it_is_over_committed(factor: float, state: JobState) -> None:
    storage("two", factor)
    guest("huge", "two", **HUGE)
    guest("web", "one")
    waits = job("web", "two")
    admit()
    assert load(waits).state is state


def test_a_moves_own_factor_goes_before_that_of_the_storage() -> None:
    storage("two", 1)
    guest("huge", "two", **HUGE)
    guest("web", "one")
    waits = job("web", "two", options=MigrationOptions(thin_factor=20))
    admit()
    assert load(waits).state is JobState.RUNNING


def test_no_factor_helps_where_what_is_written_does_not_fit() -> None:
    guest("full", "two", disk_bytes=1024 * GB, allocated_bytes=95 * GB)
    guest("web", "one")
    waits = job("web", "two", options=MigrationOptions(thin_factor=1000))
    admit()
    assert load(waits).wait_reason == "two has 4.1 GB of disk left for guests, 5.9 GB too little " + more_by(
        "GUEST_DISK_BYTES"
    )


def test_a_guest_that_is_gone_does_not_count() -> None:
    guest("gone", "two", disk_bytes=95 * GB, memory_bytes=8 * GB, gone_at=func.now())
    guest("web", "one")
    begins = job("web", "two")
    admit()
    assert load(begins).state is JobState.RUNNING


def test_a_retired_image_counts_with_what_it_takes() -> None:
    guest("left", "two", memory_bytes=0, disk_bytes=0)
    former = job("left", "three", state=JobState.DONE)
    with transaction() as session:
        session.get_one(Guest, "left").host = "three"
        disk = session.get_one(Disk, (former, 0))
        disk.retired_until, disk.bytes_total, disk.retired_bytes = func.now(), 1024 * GB, GB
    guest("web", "one")
    begins = job("web", "two")
    admit()
    assert load(begins).state is JobState.RUNNING


def test_an_arrived_guest_counts_once() -> None:
    guest("first", "one", memory_bytes=4 * GB)
    arrived = job("first", "two", state=JobState.RUNNING)
    with transaction() as session:
        session.get_one(Guest, "first").host = "two"
    guest("second", "one", memory_bytes=4 * GB)
    second = job("second", "two")
    admit()
    assert load(arrived).state is JobState.RUNNING
    assert load(second).state is JobState.RUNNING


def test_a_stalled_move_gives_its_slot_to_another_but_not_its_room() -> None:
    stalled, waits = queued(2)
    admit(max_outgoing=1)
    with transaction() as session:
        session.get_one(Job, stalled).progress_at = func.now() - timedelta(hours=1)
        session.get_one(Host, "two").guest_disk_bytes = 2 * GB
    admit(max_outgoing=1)
    assert load(waits).state is JobState.RUNNING
    [third] = queued(1, on="three")
    admit(max_outgoing=1)
    assert "of disk left" in (load(third).wait_reason or "")


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (HostState.CORDONED, "it is cordoned"),
        (HostState.MAINTENANCE, "it is in maintenance"),
    ],
)
def test_a_closed_host_takes_no_guest(state: HostState, why: str) -> None:
    [waits] = queued(1)
    with transaction() as session:
        session.get_one(Host, "two").state = state
    admit()
    assert load(waits).wait_reason == f"two takes no guest: {why} (`drover host uncordon two` opens it)"


def test_a_host_of_an_older_worker_that_says_nothing_of_its_room_is_not_limited() -> None:
    with transaction() as session:
        two = session.get_one(Host, "two")
        two.guest_cpus = two.guest_memory_bytes = two.guest_disk_bytes = None
    guest("huge", "one", memory_bytes=100 * GB, disk_bytes=1000 * GB, cpus=99)
    huge = job("huge", "two")
    admit()
    assert load(huge).state is JobState.RUNNING


def window_around(now: datetime, before: timedelta, after: timedelta) -> Window:
    start, end = now - before, now + after
    return Window(start=f"{start:%H:%M}", end=f"{end:%H:%M}", timezone="UTC")


def test_a_job_begins_at_its_time_and_not_before() -> None:
    [waits] = queued(1, not_before=datetime.now(UTC) + timedelta(hours=1))
    admit()
    assert "it begins at" in (load(waits).wait_reason or "")
    with transaction() as session:
        session.get_one(Job, waits).not_before = datetime.now(UTC)
    admit()
    assert load(waits).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("before", "after", "state", "why"),
    [
        (timedelta(hours=1), timedelta(hours=1), JobState.RUNNING, ""),
        (timedelta(hours=-1), timedelta(hours=2), JobState.QUEUED, "opens at"),
        (timedelta(hours=1), timedelta(minutes=1), JobState.QUEUED, "would not end before its window"),
        (timedelta(minutes=1), timedelta(minutes=1), JobState.QUEUED, "use a longer window"),
    ],
)
def test_a_job_begins_only_if_it_can_end_within_its_window(
    before: timedelta, after: timedelta, state: JobState, why: str
) -> None:
    guest("web", "one", disk_bytes=40 * GB)  # 400 s at the assumed 100 MB/s
    waits = job("web", "two", window=window_around(datetime.now(UTC), before, after))
    admit()
    assert load(waits).state is state
    assert why in (load(waits).wait_reason or "")


def test_disks_are_copied_ahead_and_only_the_rest_waits_for_the_window() -> None:
    guest("web", "one", disk_bytes=40 * GB)
    closed = window_around(datetime.now(UTC), timedelta(hours=-1), timedelta(hours=1, minutes=3))
    seeded = job("web", "two", window=closed, seed=True)
    admit()
    assert load(seeded).state is JobState.RUNNING
    assert load(seeded).held
    with transaction() as session:
        session.get_one(Disk, (seeded, 0)).ready_at = func.now()
    admit()
    assert load(seeded).held
    assert "opens at" in (load(seeded).wait_reason or "")
    with transaction() as session:
        session.get_one(Job, seeded).window = window_around(
            datetime.now(UTC), timedelta(minutes=1), timedelta(minutes=3)
        )
    admit()
    assert not load(seeded).held
    assert load(seeded).wait_reason is None


def test_a_move_that_was_kept_in_sync_all_day_has_its_slot_to_itself_once_its_time_has_come() -> None:
    guest("web", "one")
    seeded = job("web", "two", state=JobState.RUNNING, seed=True)
    with transaction() as session:
        session.get_one(Job, seeded).progress_at = func.now() - timedelta(hours=8)
        session.get_one(Disk, (seeded, 0)).ready_at = func.now() - timedelta(hours=8)
    admit(max_outgoing=1)
    assert not load(seeded).held
    waits = queued(1)
    admit(max_outgoing=1)
    assert running(waits) == 0


def test_a_job_that_is_held_in_sync_gives_its_slot_to_another() -> None:
    held, waits = queued(2, hold=True)
    admit(max_outgoing=1)
    assert load(waits).state is JobState.QUEUED
    with transaction() as session:
        session.get_one(Disk, (held, 0)).ready_at = func.now()
    admit(max_outgoing=1)
    assert load(waits).state is JobState.RUNNING


def test_no_more_moves_of_a_host_are_held_than_its_worker_can_bear() -> None:
    held = queued(3, hold=True)
    free = queued(1, to="three")
    admit(max_held=2)
    assert running(held) == 2
    assert load(held[2]).wait_reason == (
        "2 moves are held in sync on one already, 2 may be at a time: `drover fleet set max-held=3` lets another begin"
    )
    assert running(free) == 1


def test_only_a_held_job_can_be_released() -> None:
    held, free = *queued(1, hold=True), *queued(1, on="three")
    jobs.release(held)
    assert not load(held).held
    for number in (held, free):
        with pytest.raises(PreconditionFailed, match="there is nothing to release"):
            jobs.release(number)


@pytest.mark.parametrize("limit", ["max_outgoing", "max_incoming", "max_moves", "max_held"])
def test_a_limit_of_nothing_cannot_even_be_written(limit: str) -> None:
    with pytest.raises(IntegrityError, match="something_may_move"):
        admit(**{limit: 0})


def test_a_changed_limit_counts_at_the_next_look() -> None:
    jobs = queued(3)
    admit(max_outgoing=1)
    assert running(jobs) == 1
    admit(max_outgoing=2)
    assert running(jobs) == 2


def test_a_move_that_stands_still_longer_than_the_fleet_says_gives_its_slot_to_another() -> None:
    standing, waits = queued(2)
    admit(max_outgoing=1)
    with transaction() as session:
        session.get_one(Job, standing).progress_at = func.now() - timedelta(minutes=2)
    admit(max_outgoing=1)
    assert load(waits).state is JobState.QUEUED
    admit(max_outgoing=1, stalled_after=timedelta(minutes=1))
    assert load(waits).state is JobState.RUNNING
