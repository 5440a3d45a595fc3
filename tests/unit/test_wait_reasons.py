"""Why a job or drain does not go on: one sentence with the command that changes it. No I/O."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drover import words
from models.documents import MigrationOptions, Pace, RamProgress
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.job import Disk, Job, JobState, StepState
from workers.disks import pace
from workers.qemu.block import Mirror
from workflows import wait_reasons
from workflows.migration import links
from workflows.wait_reasons import UNATTENDED, UNDECIDED, Conditions

NOW = datetime(2026, 3, 1, 22, tzinfo=UTC)
MB = 10**6


def conditions(**changed: Any) -> Conditions:
    """Both hosts are heard of, and a controller acts."""
    usual: dict[str, Any] = {"at": NOW, "silences_s": {"a": 1.0, "b": 1.0}, "patience_s": 8.0, "controlled": True}
    return Conditions(**usual | changed)


def job(at_work: str | None = "await_sync", **columns: Any) -> Job:
    """A job whose disk is being copied."""
    made = Job(id=13, guest="web", source="a", destination="b", state=JobState.RUNNING, hold=False, seed=False)
    made.progress_at, made.options = NOW - timedelta(seconds=1), MigrationOptions()
    made.steps = links.steps("a", "b")
    made.disks = [Disk(index=0, bytes_total=1000 * MB, bytes_first=1000 * MB, bytes_copied=240 * MB)]
    for step in made.steps:
        step.state, step.next_at = StepState.PENDING, NOW
        if step.name == at_work:
            step.state = StepState.RUNNING
            break
        if at_work is not None:
            step.state = StepState.DONE
    for step in made.steps:
        step.state, step.next_at = step.state or StepState.PENDING, step.next_at or NOW
    for name, value in columns.items():
        setattr(made, name, value)
    return made


def in_sync(made: Job) -> Job:
    made.disks[0].bytes_copied, made.disks[0].ready_at = made.disks[0].bytes_total, NOW
    return made


def test_a_job_that_goes_on_says_nothing() -> None:
    assert wait_reasons.of_job(job(), conditions()) is None
    assert wait_reasons.of_job(job(pace=Pace(copied_per_s=12e6)), conditions()) is None


def test_a_held_move_says_how_it_is_released() -> None:
    assert wait_reasons.of_job(job(hold=True), conditions()) is None, "it still copies"
    told = wait_reasons.of_job(in_sync(job(hold=True)), conditions())
    assert told == "held, its disks are kept in sync, until `drover job release 13`"


def test_the_step_that_is_at_work_says_of_itself_what_every_other_view_says() -> None:
    ram = RamProgress(limit_per_s=10**6, bytes_per_s=10**6, remaining=40 * 10**6)
    limited = Pace(copied_per_s=10 * MB, limit_per_s=10 * MB)
    waiting = (
        in_sync(job(hold=True)),
        job(pace=limited),
        job(at_work="mirror_disks", pace=limited),
        job(at_work="migrate_ram", ram=ram),
        job(wait_reason="its window is closed"),
    )
    for going in waiting:
        name = next(step.name for step in going.steps if step.state is StepState.RUNNING)
        told = wait_reasons.of_step(going, name, None)
        assert told is not None
        assert told == wait_reasons.of_job(going, conditions())
    assert wait_reasons.of_step(job(), "await_sync", None) is None
    assert wait_reasons.of_step(job(pace=limited), "await_sync", "b has no room") == "b has no room"


def test_a_held_move_that_is_rolled_back_is_not_called_held() -> None:
    for ending in ({"state": JobState.ROLLING_BACK}, {"cancel_requested": True}):
        assert "held" not in str(wait_reasons.of_job(in_sync(job(hold=True, **ending)), conditions()))


def test_ram_under_a_limit_says_how_long_it_takes() -> None:
    ram = RamProgress(limit_per_s=10**6, bytes_per_s=10**6, remaining=40 * 10**6)
    sending = job(at_work="migrate_ram", ram=ram)
    told = wait_reasons.of_job(sending, conditions())
    assert str(told).startswith("limited to 1.0 MB/s, 40 s of its RAM left: `drover host set a --bandwidth` changes")
    turned = job(at_work="migrate_ram", ram=ram, state=JobState.ROLLING_BACK)
    assert "limited" not in str(wait_reasons.of_job(turned, conditions())), "nothing is sent any more"


def test_files_under_a_limit_say_how_long_they_take() -> None:
    sent = job(at_work="copy_files", pace=Pace(copied_per_s=4e6, limit_per_s=4 * MB, files_left=40 * MB))
    sent.options = MigrationOptions(bandwidth_bytes_per_s=4 * MB)
    told = "limited to 4.0 MB/s, 10 s of its files left: `drover job set 13 --bandwidth 0` lifts it"
    assert wait_reasons.of_job(sent, conditions()) == wait_reasons.of_step(sent, "copy_files", None) == told
    sent.pace = Pace(copied_per_s=4e6, files_left=40 * MB)
    assert wait_reasons.of_job(sent, conditions()) is None, "nothing limits it"


def test_a_dead_worker_of_the_destination_shows_while_the_source_copies_on() -> None:
    told = wait_reasons.of_job(job(), conditions(silences_s={"a": 1.0, "b": 40.0}))
    assert told is not None
    assert told.startswith("b is silent for 40 s (is its worker down?); await_sync on a goes on, what follows waits")
    assert "`drover job cancel 13`" in told


def test_a_silent_host_whose_step_is_next_holds_the_job_up() -> None:
    silent = conditions(silences_s={"a": 1.0, "b": 400.0})
    for waiting in (job(at_work=None), job(at_work=None, state=JobState.QUEUED)):
        told = wait_reasons.of_job(waiting, silent)
        assert told == "b is silent for 6:40 (is its worker down?): start it there, or `drover job cancel 13`"


def test_a_move_past_its_point_of_no_return_is_not_to_be_cancelled() -> None:
    crossed = job(at_work=None, committed_at=NOW)
    told = wait_reasons.of_job(crossed, conditions(silences_s={"a": 1.0, "b": 40.0}))
    assert told == "b is silent for 40 s (is its worker down?): start it there"


def test_a_copy_under_a_limit_says_how_long_it_takes_and_which_command_lifts_that_limit() -> None:
    limited = job(pace=Pace(copied_per_s=4e6, limit_per_s=4_000_000))
    assert wait_reasons.of_job(limited, conditions()) == (
        "limited to 4.0 MB/s, 3:10 left: `drover host set a --bandwidth` changes its host's budget, `drover budget "
        "list` has the others"
    )
    limited.options = MigrationOptions(bandwidth_bytes_per_s=4_000_001)
    assert wait_reasons.of_job(limited, conditions()) == (
        "limited to 4.0 MB/s, 3:10 left: `drover job set 13 --bandwidth 0` lifts it"
    )


def test_a_guest_that_writes_faster_than_the_limit_is_told_with_what_lifts_it() -> None:
    asked = MigrationOptions(bandwidth_bytes_per_s=12_000_000)
    outrun = job(pace=Pace(copied_per_s=12e6, written_per_s=14e6, limit_per_s=12_000_000), options=asked)
    told = wait_reasons.of_job(outrun, conditions()) or ""
    assert told.startswith(
        "the guest writes 14.0 MB/s and the copy is limited to 12.0 MB/s: `drover job set 13 --bandwidth"
    )


@pytest.mark.parametrize(
    ("columns", "changed", "says"),
    [
        ({"state": JobState.QUEUED}, {"controlled": False}, "no controller is active: start `drover controller`"),
        ({"state": JobState.QUEUED}, {}, "the controller decides in a moment"),
        ({"state": JobState.QUEUED, "wait_reason": "b has no room"}, {}, "b has no room"),
        ({"state": JobState.NEEDS_OPERATOR}, {}, "an operator must decide: `drover job explain 13`"),
        ({"wait_reason": "Redis takes no messages: OOM"}, {}, "Redis takes no messages: OOM"),
        ({"progress_at": NOW - timedelta(minutes=2)}, {}, "no progress for 2:00 (no step is at work)"),
        ({"progress_at": NOW - timedelta(minutes=2), "hold": True}, {}, "no progress for 2:00 (no step is at work)"),
    ],
)
def test_no_job_that_stands_is_without_a_reason(columns: dict[str, Any], changed: dict[str, Any], says: str) -> None:
    assert (wait_reasons.of_job(job(at_work=None, **columns), conditions(**changed)) or "").startswith(says)


@pytest.mark.parametrize("state", [state for state in JobState if not state.finished])
@pytest.mark.parametrize("at_work", [None, *links.StepName])
def test_whatever_step_a_job_stands_in_it_says_why_with_a_command(state: JobState, at_work: str | None) -> None:
    stands = job(at_work=at_work, state=state, progress_at=NOW - timedelta(minutes=2))
    assert "`drover " in (wait_reasons.of_job(stands, conditions()) or "")


@pytest.mark.parametrize("state", [state for state in DrainState if not state.ended])
@pytest.mark.parametrize("guest", [GuestState.WAITING, GuestState.MOVING])
def test_in_whatever_state_a_drain_stands_it_and_its_guests_say_why(state: DrainState, guest: GuestState) -> None:
    stands = {13: job(wait_reason="b has no room: `drover job cancel 13`")}
    row = DrainGuest(guest="web", state=guest, job_id=13)
    assert wait_reasons.of_drain(drain(state, row), stands, controlled=True)
    assert wait_reasons.of_guest(drain(state, row), row, stands[13], controlled=True)


def test_a_step_that_nobody_takes_up_and_one_that_is_tried_again_say_so() -> None:
    made = job(at_work=None)
    made.steps[0].enqueued_at = NOW - timedelta(seconds=9)
    assert "has not taken up prepare_dest_image for 9 s" in (wait_reasons.of_job(made, conditions()) or "")
    made.steps[0].next_at, made.steps[0].error = NOW + timedelta(seconds=5), "no route"
    assert wait_reasons.of_job(made, conditions()) == (
        "prepare_dest_image is tried again in 5 s: no route; `drover job cancel 13` ends the move"
    )
    made.committed_at = NOW
    assert "; `drover job explain 13` says what led to it" in (wait_reasons.of_job(made, conditions()) or "")


def test_a_move_whose_guest_is_watched_for_long_after_its_switchover_says_so() -> None:
    watched = job(at_work="check_guest", progress_at=NOW - timedelta(seconds=40), committed_at=NOW)
    told = wait_reasons.of_job(watched, conditions())
    assert told == "web runs on b; b has looked for 40 s whether it is well there (`drover job explain 13`)"


@pytest.mark.parametrize("state", [JobState.DONE, JobState.ROLLED_BACK])
def test_a_job_that_has_ended_waits_for_nothing(state: JobState) -> None:
    assert wait_reasons.of_job(job(state=state, wait_reason="old"), conditions(controlled=False)) is None


def drain(state: DrainState, *rows: DrainGuest) -> Drain:
    return Drain(id=3, kind=DrainKind.DRAIN, host="a", state=state, guests=list(rows))


def test_a_drain_says_why_it_begins_nothing() -> None:
    waits = DrainGuest(guest="web", state=GuestState.WAITING, reason="b has no room")
    assert wait_reasons.of_drain(drain(DrainState.PAUSED), {}, controlled=True) == "paused: `drover drain resume 3`"
    assert wait_reasons.of_drain(drain(DrainState.RUNNING, waits), {}, controlled=True) == "web: b has no room"
    assert "no controller" in (wait_reasons.of_drain(drain(DrainState.RUNNING, waits), {}, controlled=False) or "")
    asked = DrainGuest(guest="db", state=GuestState.WAITING, asked_at=NOW)
    assert wait_reasons.of_drain(drain(DrainState.RUNNING, asked), {}, controlled=True) == (
        "db: its hosts are asked about it"
    )
    moving = DrainGuest(guest="db", state=GuestState.MOVING, job_id=13)
    assert wait_reasons.of_drain(drain(DrainState.RUNNING, waits, moving), {13: job()}, controlled=True) is None
    held = {13: in_sync(job(hold=True))}
    told = wait_reasons.of_drain(drain(DrainState.RUNNING, moving), held, controlled=True)
    assert told == "1 move is held in sync until `drover drain release 3`"


def test_a_drain_and_its_guests_that_have_no_reason_yet_say_who_decides() -> None:
    waits = DrainGuest(guest="web", state=GuestState.WAITING)
    queued, running = drain(DrainState.QUEUED, waits), drain(DrainState.RUNNING, waits)
    assert wait_reasons.of_drain(queued, {}, controlled=True) == UNDECIDED
    assert wait_reasons.of_guest(queued, waits, None, controlled=True) == UNDECIDED
    assert wait_reasons.of_guest(running, waits, None, controlled=True) == UNDECIDED
    waits.asked_at = NOW
    assert wait_reasons.of_guest(running, waits, None, controlled=True) == "its hosts are asked about it"


def test_a_guest_of_a_drain_says_what_keeps_the_drain_and_else_what_keeps_its_job_or_itself() -> None:
    waits = DrainGuest(guest="web", state=GuestState.WAITING, reason="b has no room")
    told = {
        state: wait_reasons.of_guest(drain(state, waits), waits, None, controlled=True)
        for state in (DrainState.RUNNING, DrainState.PAUSED, DrainState.INCOMPLETE)
    }
    assert told == {
        DrainState.RUNNING: "b has no room",
        DrainState.PAUSED: "its drain is paused: `drover drain resume 3`",
        DrainState.INCOMPLETE: "b has no room",
    }
    assert wait_reasons.of_guest(drain(DrainState.RUNNING), waits, None, controlled=False) == UNATTENDED
    moves = DrainGuest(guest="db", state=GuestState.MOVING, reason="as it was when the controller looked last")
    limited = job(wait_reason="as it is now")
    assert wait_reasons.of_guest(drain(DrainState.PAUSED), moves, limited, controlled=True) == "as it is now"


def test_bytes_are_counted_once_and_what_was_written_anew_apart() -> None:
    disk = Disk(bytes_first=1300 * MB, bytes_total=3700 * MB, bytes_copied=3500 * MB)
    assert (disk.bytes_size, disk.bytes_done) == (1300 * MB, 1100 * MB)
    assert (disk.bytes_left, disk.bytes_rewritten) == (200 * MB, 2400 * MB)
    old = Disk(bytes_total=1300 * MB, bytes_copied=300 * MB)
    assert (old.bytes_size, old.bytes_done, old.bytes_rewritten) == (1300 * MB, 300 * MB, 0)


def mirror(copied: int, total: int) -> Mirror:
    return Mirror(
        status="running", copied_bytes=copied, total_bytes=total, ready=False, healthy=True, no_room=False, error=None
    )


def test_the_pace_is_what_is_copied_and_what_is_written_anew_in_a_second() -> None:
    meter = pace.Meter()
    assert meter.pace({"d": mirror(0, 0)}, 0, at=0.0) == Pace()
    meter.pace({"d": mirror(0, 1000)}, 7, at=1.0)
    assert meter.pace({"d": mirror(400, 1100)}, 7, at=5.0).copied_per_s == 100.0
    assert meter.pace({"d": mirror(0, 1000)}, 7, at=6.0) == Pace(limit_per_s=7), "the copy began anew"
    assert meter.pace({"d": mirror(100, 1010)}, 7, at=7.0) == Pace(
        copied_per_s=100.0, written_per_s=10.0, limit_per_s=7
    )


def test_words_for_one_and_for_many_and_for_rates_and_times() -> None:
    assert (words.count(1, "guest"), words.count(2, "guest")) == ("1 guest", "2 guests")
    assert words.count(2, "move leaves", "moves leave") == "2 moves leave"
    assert [words.rate(n) for n in (100, 1_500, 12_300_000)] == ["100 bytes/s", "1.5 kB/s", "12.3 MB/s"]
    assert [words.clock(n) for n in (40, 190, 7500, 129_600)] == ["40 s", "3:10", "2:05:00", "36:00:00"]
    assert [words.clock(86_400 * 7 + more) for more in (0, 40, 7500)] == ["7 d", "7 d 40 s", "7 d 2:05:00"]
    assert [words.about(n) for n in (0.4, 89, 91, 8_900)] == ["0 s", "1 min 29 s", "2 min", "2 h 28 min"]
    assert words.gist("limited to 12 MB/s, 3:10 left") == words.gist("limited to 12 MB/s, 0:40 left")
