"""A drain is carried on from rows alone: each call here could be in another process, without anything in memory."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, update

from drover.errors import PreconditionFailed
from drover.settings import settings
from models.database import transaction
from models.documents import AllowedHosts, Recurrence, Window
from models.drain import Drain, DrainKind, DrainState, GuestState
from models.fleet import FleetLimits
from models.guest import Guest
from models.host import Host, HostState
from models.job import Job, JobState
from models.transitions import JobEvent
from tests.factories import GB, guest, happens, host, job, load
from workflows import hosts
from workflows.drain import commands, job_sync, reconciler
from workflows.drain.planner import DrainRequest
from workflows.migration.jobs import Changes
from workflows.submissions import DrainSubmission
from workflows.submit_options import SubmitOptions

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def fleet(database: None) -> None:
    """Three guests on the first of three hosts."""
    for name in ("one", "two", "three"):
        host(name)
    for number in (3, 2, 1):
        guest(f"g{number}", "one", memory_bytes=number * GB)


def drain(kind: DrainKind = DrainKind.DRAIN, name: str = "one", **how: Any) -> int:
    return commands.submit(DrainRequest(kind=kind, host=name, **how)).id


def advance(drain_id: int, **limits: Any) -> list[str]:
    """One look of a controller; returns the guests whose job it has sent for."""
    with transaction() as session:
        found = session.get_one(Drain, drain_id, with_for_update=True)
        generous = {"max_outgoing": 100, "max_incoming": 100, "max_moves": 100}
        session.execute(update(FleetLimits).values(**generous | limits))
        return reconciler.advance(session, found, settings())


def shown(drain_id: int) -> Drain:
    with transaction() as session:
        found = session.get_one(Drain, drain_id)
        _ = found.guests
    return found


def states(drain_id: int) -> dict[str, str]:
    return {row.guest: row.state.value for row in shown(drain_id).guests}


def reasons(drain_id: int) -> dict[str, str | None]:
    return {row.guest: row.reason for row in shown(drain_id).guests}


def destinations(drain_id: int) -> dict[str, str | None]:
    return {row.guest: row.destination for row in shown(drain_id).guests}


def submitted(drain_id: int, *names: str) -> dict[str, int]:
    """What the task does that a controller has sent for."""
    to = destinations(drain_id)
    return {name: job(name, str(to[name]), drain_id=drain_id) for name in names}


def end(job_id: int, state: JobState, error: str | None = None) -> None:
    """As its last step would."""
    with transaction() as session:
        ended = session.get_one(Job, job_id)
        if ended.state is JobState.QUEUED:
            happens(session, ended, JobEvent.BEGIN)
        if state is JobState.ROLLED_BACK:
            happens(session, ended, JobEvent.ROLL_BACK)
        ended.error = error
        happens(session, ended, JobEvent.ASK if state is JobState.NEEDS_OPERATOR else JobEvent.FINISH)
        if state is JobState.DONE:
            session.get_one(Guest, ended.guest).host = ended.destination


def carry_through(drain_id: int) -> None:
    while chosen := advance(drain_id):
        for job_id in submitted(drain_id, *chosen).values():
            end(job_id, JobState.DONE)
    advance(drain_id)


def state_of(name: str) -> HostState:
    with transaction() as session:
        return session.get_one(Host, name).state


def test_a_drain_cordons_its_host_and_sends_for_all_guests_that_have_a_slot_largest_first() -> None:
    number = drain()
    assert advance(number, max_outgoing=2) == ["g3", "g2"]
    assert state_of("one") is HostState.CORDONED
    assert reasons(number)["g1"] == (
        "2 moves leave one already, 2 may at a time: `drover fleet set max-outgoing=3` lets another begin"
    )
    assert advance(number, max_outgoing=2) == [], "what was sent for is not sent for again"


def test_a_drain_ends_with_the_host_empty_and_in_maintenance() -> None:
    number = drain()
    carry_through(number)
    assert shown(number).state is DrainState.DONE
    assert set(states(number).values()) == {"moved"}
    assert state_of("one") is HostState.MAINTENANCE


def test_a_guest_whose_job_was_rolled_back_goes_to_another_host() -> None:
    number = drain()
    jobs = submitted(number, *advance(number))
    before = destinations(number)["g3"]
    advance(number)
    end(jobs["g3"], JobState.ROLLED_BACK, "the link is bad")
    assert advance(number) == ["g3"]
    assert destinations(number)["g3"] not in {before, "one"}


def test_a_guest_that_no_host_takes_is_left_running_and_the_others_go_on() -> None:
    guest("huge", "one", memory_bytes=100 * GB)
    number = drain()
    jobs = submitted(number, *advance(number))
    assert "huge" not in jobs
    assert states(number)["huge"] == "waiting", "room might be made while others move"
    for job_id in jobs.values():
        end(job_id, JobState.DONE)
    advance(number)
    assert states(number)["huge"] == "skipped"
    assert shown(number).state is DrainState.INCOMPLETE
    assert "1 guest is left, of 4: huge: no host takes it" in str(shown(number).error)
    assert state_of("one") is HostState.CORDONED


def test_a_guest_for_which_an_operator_is_needed_does_not_hold_the_drain_up() -> None:
    number = drain()
    jobs = submitted(number, *advance(number))
    end(jobs.pop("g3"), JobState.NEEDS_OPERATOR, "who has it?")
    for job_id in jobs.values():
        end(job_id, JobState.DONE)
    advance(number)
    assert shown(number).state is DrainState.INCOMPLETE
    assert "needs an operator: who has it?" in str(reasons(number)["g3"])


def test_an_incomplete_drain_that_is_resumed_tries_what_it_has_left() -> None:
    guest("huge", "one", memory_bytes=100 * GB)
    number = drain()
    carry_through(number)
    assert shown(number).state is DrainState.INCOMPLETE
    with transaction() as session:
        session.get_one(Host, "three").guest_memory_bytes = 200 * GB
    hosts.uncordon("one")
    commands.resume(number)
    assert state_of("one") is HostState.CORDONED
    carry_through(number)
    assert shown(number).state is DrainState.DONE


def test_a_guest_whose_job_was_cancelled_by_hand_is_left() -> None:
    number = drain()
    jobs = submitted(number, *advance(number))
    with transaction() as session:
        session.get_one(Job, jobs["g3"]).cancel_requested = True
    end(jobs["g3"], JobState.ROLLED_BACK)
    advance(number)
    assert (states(number)["g3"], reasons(number)["g3"]) == ("skipped", f"its job {jobs['g3']} was cancelled")


def test_a_job_that_waits_for_a_host_which_was_closed_meanwhile_is_withdrawn() -> None:
    number = drain(where=AllowedHosts(to=("two", "three")))
    submitted(number, *advance(number))
    bound_for_two = {name for name, to in destinations(number).items() if to == "two"}
    hosts.cordon("two")
    advance(number)  # their jobs are withdrawn
    assert set(advance(number)) == bound_for_two != set()
    assert set(destinations(number).values()) == {"three"}


def test_a_guest_that_arrives_late_is_taken_up_too() -> None:
    number = drain()
    advance(number)
    guest("late", "one")
    advance(number)
    assert "late" in states(number)


def test_a_paused_drain_begins_no_other_move_and_goes_on_when_resumed() -> None:
    number = drain()
    jobs = submitted(number, *advance(number, max_outgoing=1))
    commands.pause(number)
    for job_id in jobs.values():
        end(job_id, JobState.DONE)
    assert advance(number) == []
    assert states(number) == {"g1": "waiting", "g2": "waiting", "g3": "moved"}
    commands.resume(number)
    assert sorted(advance(number)) == ["g1", "g2"]


def test_a_cancelled_drain_has_its_moves_rolled_back_and_keeps_what_has_moved() -> None:
    number = drain()
    jobs = submitted(number, *advance(number))
    advance(number)
    end(jobs["g3"], JobState.DONE)
    commands.cancel(number)
    advance(number)
    advance(number)
    assert shown(number).state is DrainState.CANCELLED
    assert states(number) == {"g1": "skipped", "g2": "skipped", "g3": "moved"}
    assert state_of("one") is HostState.CORDONED


def test_the_return_brings_home_what_was_drained_and_nothing_else() -> None:
    guest("resident", "two")
    carry_through(drain())
    number = drain(DrainKind.RETURN)
    carry_through(number)
    assert shown(number).state is DrainState.DONE
    assert set(states(number)) == {"g1", "g2", "g3"}
    assert state_of("one") is HostState.ACTIVE
    with pytest.raises(PreconditionFailed, match="no guest that was drained from one is away"):
        drain(DrainKind.RETURN)


def test_a_return_waits_for_its_host_while_that_is_silent_and_does_not_open_it() -> None:
    carry_through(drain())
    heartbeat("one", minutes_ago=10)
    number = drain(DrainKind.RETURN)
    advance(number)
    assert shown(number).state is DrainState.QUEUED
    assert "one is silent (is its worker down?): start it there" in str(shown(number).wait_reason)
    assert state_of("one") is HostState.MAINTENANCE
    heartbeat("one", minutes_ago=0)
    carry_through(number)
    assert set(states(number)) == {"g1", "g2", "g3"}


def heartbeat(of: str, *, minutes_ago: int) -> None:
    with transaction() as session:
        session.get_one(Host, of).heartbeat_at = datetime.now(UTC) - timedelta(minutes=minutes_ago)


def test_a_return_leaves_alone_who_was_home_since_and_one_of_some_leaves_the_others_to_the_next() -> None:
    carry_through(drain())
    for to in ("one", "two"):
        end(job("g1", to), JobState.DONE)
    with transaction() as session:
        session.get_one(Guest, "g2").labels = {"tier": "db"}
    for expected, selector in (("g2", "tier=db"), ("g3", None)):
        number = drain(DrainKind.RETURN, selector=selector)
        carry_through(number)
        assert states(number) == {expected: "moved"}


def test_a_second_drain_of_a_host_answers_with_the_first() -> None:
    first = drain()
    assert drain() == first, "it is queued"
    advance(first)
    assert drain() == drain(where=AllowedHosts(to=("two",))) == first, "it runs"
    commands.pause(first)
    assert drain() == first
    commands.cancel(first)
    second = drain()
    assert second != first, "the first one empties nothing any more"
    other = drain(selector="tier=db")
    tonight = drain(terms=SubmitOptions(not_before=datetime.now(UTC) + timedelta(hours=1)))
    assert len({first, second, other, tonight, drain(kind=DrainKind.DRAIN, name="two")}) == 5
    window = Window(start="22:00", end="23:00", timezone="UTC")
    nightly = drain(terms=SubmitOptions(window=window), name="three")
    assert drain(terms=SubmitOptions(window=window), name="three") == nightly
    assert drain(name="three") != nightly, "that one is for the night"


def test_what_is_changed_about_a_drain_holds_for_its_moves_too() -> None:
    number = drain()
    jobs = submitted(number, *advance(number))
    end(jobs["g1"], JobState.DONE)
    window = Window(start="22:00", end="23:00", timezone="UTC")
    changed = Changes(bandwidth_bytes_per_s=10**6, max_downtime_ms=50, priority=7, window=window)
    commands.change(number, changed)
    with transaction() as session:
        for row in (session.get_one(Drain, number), session.get_one(Job, jobs["g2"])):
            options = row.options.bandwidth_bytes_per_s, row.options.max_downtime_ms
            assert (*options, row.priority, row.window) == (10**6, 50, 7, window)
        assert session.get_one(Job, jobs["g1"]).priority == 0, "it has ended"
    commands.change(number, Changes(window="always"))
    assert shown(number).window is None
    assert shown(number).priority == 7
    assert str(changed).endswith("priority 7, window 22:00-23:00 UTC")


def test_one_drain_at_a_time_has_a_host_to_itself() -> None:
    first = drain()
    second = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="one"), idempotency_key="k").id
    jobs = submitted(first, *advance(first))
    assert advance(second) == []
    assert shown(second).wait_reason == (f"drain {first} of one is under way: `drover drain cancel {first}` ends it")
    for job_id in jobs.values():
        end(job_id, JobState.DONE)
    carry_through(first)
    advance(second)
    assert shown(second).state is DrainState.DONE


def test_a_drain_begins_at_its_time_and_not_before() -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    number = drain(terms=SubmitOptions(not_before=at))
    assert advance(number) == []
    assert "it begins at" in str(shown(number).wait_reason)
    assert state_of("one") is HostState.ACTIVE
    with transaction() as session:
        session.get_one(Drain, number).not_before = datetime.now(UTC)
    assert len(advance(number)) == 3


def test_a_lost_message_is_sent_again() -> None:
    number = drain()
    assert len(advance(number)) == 3
    with transaction() as session:
        for row in session.get_one(Drain, number).guests:
            row.asked_at = datetime.now(UTC) - timedelta(minutes=10)
    assert len(advance(number)) == 3


def test_a_key_names_one_drain(database: None) -> None:
    request = DrainRequest(kind=DrainKind.DRAIN, host="one")
    first = commands.submit(request, idempotency_key="k")
    assert commands.submit(request, idempotency_key="k").id == first.id
    with pytest.raises(PreconditionFailed, match="use another key"):
        commands.submit(replace(request, host="two"), idempotency_key="k")


@pytest.mark.parametrize("verb", [commands.pause, commands.resume, commands.cancel])
def test_what_cannot_be_asked_of_a_drain_is_refused(verb: Callable[[int], object]) -> None:
    number = drain()
    carry_through(number)
    with pytest.raises(PreconditionFailed, match="done"):
        verb(number)
    with pytest.raises(PreconditionFailed, match="there is no drain 4711"):
        verb(4711)


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(PreconditionFailed, match="there is no host 'nowhere'"):
        drain(where=AllowedHosts(to=("nowhere",)))


def test_guests_never_move_to_a_state_that_the_table_does_not_list() -> None:
    from models.drain import DrainGuest
    from models.transitions import IllegalTransition

    with pytest.raises(IllegalTransition):
        DrainGuest(guest="g", state=GuestState.MOVED).move(GuestState.WAITING)


def night(begins_in: timedelta, length: timedelta) -> Window:
    start = datetime.now(UTC) + begins_in
    return Window(start=f"{start:%H:%M}", end=f"{start + length:%H:%M}", timezone="UTC")


def test_a_scheduled_drain_cordons_its_host_when_its_window_opens() -> None:
    number = drain(terms=SubmitOptions(window=night(timedelta(hours=1), timedelta(hours=2))))
    assert advance(number) == []
    assert "opens at" in str(shown(number).wait_reason)
    assert state_of("one") is HostState.ACTIVE


def test_nothing_is_begun_that_would_not_end_within_the_window_and_the_guest_says_so() -> None:
    with transaction() as session:
        session.get_one(Guest, "g3").disk_bytes = 60 * GB  # 10 min at the assumed 100 MB/s
    number = drain(terms=SubmitOptions(window=night(timedelta(hours=-1), timedelta(hours=1, minutes=6))))
    assert sorted(advance(number)) == ["g1", "g2"]
    assert "would not end before its window" in str(reasons(number)["g3"])
    assert states(number)["g3"] == "waiting"


def test_what_fits_into_no_window_is_left_and_says_so() -> None:
    number = drain(terms=SubmitOptions(window=night(timedelta(minutes=-1), timedelta(minutes=2))))
    with transaction() as session:
        session.get_one(Guest, "g3").disk_bytes = 60 * GB
    assert sorted(advance(number)) == []
    assert states(number)["g3"] == "skipped"
    assert "use a longer window" in str(reasons(number)["g3"])


def test_disks_are_copied_ahead_of_the_window_at_once() -> None:
    number = drain(terms=SubmitOptions(window=night(timedelta(hours=1), timedelta(hours=2)), seed=True))
    assert sorted(advance(number)) == ["g1", "g2", "g3"]


def test_a_drain_that_repeats_queues_the_next_one_when_it_ends() -> None:
    number = drain(recurrence=Recurrence(cron="0 22 * * 6", timezone="Europe/Berlin"))
    carry_through(number)
    with transaction() as session:
        [following] = session.scalars(select(Drain).where(Drain.id != number)).all()
    assert following.state is DrainState.QUEUED
    assert following.recurrence == shown(number).recurrence
    at = following.not_before
    assert at is not None
    assert at.astimezone(ZoneInfo("Europe/Berlin")).strftime("%A %H:%M") == "Saturday 22:00"
    with transaction() as session:  # a drain that is resumed ends twice
        again = session.get_one(Drain, number)
        again.state = DrainState.RUNNING
    advance(number)
    with transaction() as session:
        assert len(session.scalars(select(Drain).where(Drain.state == DrainState.QUEUED)).all()) == 1
    commands.cancel(following.id)
    assert shown(following.id).state is DrainState.CANCELLED


def test_copying_ahead_of_nothing_is_refused() -> None:
    with pytest.raises(PreconditionFailed, match="a window, or a time to begin at"):
        DrainSubmission.read({"host": "one", "seed_now": True}).submit_options()


def test_a_move_that_ends_between_two_looks_is_not_taken_for_left() -> None:
    number = drain()
    jobs = submitted(number, *advance(number))
    advance(number)
    for job_id in jobs.values():
        end(job_id, JobState.DONE)
    with transaction() as session:
        ended = session.get_one(Drain, number, with_for_update=True)
        assert job_sync.moves_under_way(session, ended), "nobody has looked at how they ended"
        job_sync.follow(session, ended, settings())
        session.flush()
        assert not job_sync.moves_under_way(session, ended)


def test_drains_that_are_under_way_together_do_not_choose_the_same_hosts() -> None:
    for name in ("four", "five", "six", "seven", "last"):
        host(name)
    guest("other", "two", memory_bytes=GB)
    first = drain()
    assert sorted(advance(first)) == ["g1", "g2", "g3"]
    second = drain(name="two")
    assert advance(second) == ["other"]
    assert destinations(second)["other"] not in destinations(first).values()
    queued = submitted(first, "g1", "g2", "g3")
    guest("late", "last")
    third = drain(name="last")
    assert advance(third) == ["late"]
    assert destinations(third)["late"] not in {load(job_id).destination for job_id in queued.values()}
