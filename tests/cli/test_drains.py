"""`drover drain` and `drover return`: what is asked for, what is refused, and what is shown."""

from typing import Any

import pytest
from kombu.exceptions import OperationalError as BrokerUnreachable

from drover.cli.exit_codes import ExitCode
from drover.errors import NoBroker
from models.database import transaction
from models.documents import MigrationOptions
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.job import Job, JobState
from tests.cli.support import document, drover, insert_job

pytestmark = pytest.mark.usefixtures("database", "answers")


SOME_STAY = 3
"""The exit code of a dry run by which not all guests can be moved."""


def drain(*words: str, code: int = 0) -> dict[str, Any]:
    return document("drain", "hv1", *words, code=code)


def change(number: int, state: DrainState, guest: GuestState, **columns: object) -> None:
    """As the controller would have brought it."""
    with transaction() as session:
        found = session.get_one(Drain, number)
        found.state = state
        for row in found.guests:
            row.state, row.reason = guest, "hv2 is full" if guest is GuestState.SKIPPED else None
            for name, value in columns.items():
                setattr(row, name, value)


def test_a_dry_run_says_who_would_go_where_and_changes_nothing() -> None:
    found = drain("--dry-run")
    assert (found["dry_run"], found["host"], found["skipped"]) == (True, "hv1", [])
    assert [(move["guest"], move["destination"]) for move in found["moves"]] == [("web", "hv2")]
    assert found["total_s"] > 0
    told = drover("drain", "hv1", "--dry-run").stdout
    assert "web" in told
    assert "1 guest moves in about" in told
    assert document("drain", "list", "--all") == {"drains": []}
    assert {row["state"] for row in document("host", "list")["hosts"]} == {"active"}


def test_a_dry_run_by_which_nothing_moves_says_so_and_how_long_nothing_takes_it_does_not() -> None:
    assert drover("drain", "hv2", "--dry-run").stdout == "nothing would move: no such guest is on hv2\n"
    away = "nothing would move: no such guest that was drained from hv1 is away\n"
    assert drover("return", "hv1", "--dry-run").stdout == away


def test_a_guest_that_cannot_be_moved_is_listed_with_the_reason(answers: dict[str, Any]) -> None:
    answers["plan_destination"] = "hv2 cannot take web: no room"
    [left] = drain("--dry-run", code=SOME_STAY)["skipped"]
    assert left["guest"] == "web"
    assert "hv2 cannot take web: no room" in left["reason"]
    assert "gone is silent (is its worker down?): start it there" in left["reason"]
    answers["inspect"]["refusals"] = ["it has a floppy"]
    del answers["plan_destination"]  # whom its own host refuses no other is asked for
    assert drain("--dry-run", code=SOME_STAY)["skipped"] == [
        {"guest": "web", "reason": "web cannot be moved now: it has a floppy"},
    ]


def test_a_second_drain_answers_with_the_first_and_says_so() -> None:
    first = drain()["id"]
    again = drover("drain", "hv1")
    assert again.exit_code == 0
    assert f"drain {first} does this already, it is queued: nothing was added" in again.stderr
    assert again.stdout.startswith(f"drain {first} empties hv1")
    assert drain()["id"] == first
    assert [one["id"] for one in document("drain", "list")["drains"]] == [first]
    assert drain("--dry-run")["dry_run"], "it is planned all the same"


def test_a_drain_is_submitted_with_its_plan_and_a_key_names_it() -> None:
    found = drain("--idempotency-key", "k", "--to", "hv2", "--priority", "3")
    assert (found["state"], found["total"], found["to"], found["priority"]) == ("queued", 1, ["hv2"], 3)
    assert found["guests"][0]["destination"] == "hv2"
    assert drain("--idempotency-key", "k")["id"] == found["id"]
    assert document("drain", "show", "--key", "k")["id"] == found["id"]
    assert [row["id"] for row in document("drain", "list")["drains"]] == [found["id"]]


def test_the_short_form_and_the_long_one_are_the_same() -> None:
    assert document("drain", "submit", "hv1", "--dry-run") == drain("--dry-run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["drain", "nowhere"], "there is no host 'nowhere'"),
        (["drain", "hv1", "--to", "nowhere"], "there is no host 'nowhere'"),
        (["drain", "hv1", "--to", "hv1"], "no destination is left: each of hv1 is hv1 itself, or excluded"),
        (["drain", "hv1", "--to", "hv2", "--exclude", "hv2"], "no destination is left: each of hv2 is"),
        (["return", "hv1"], "no guest that was drained from hv1 is away"),
        (["drain", "show", "4711"], "there is no drain 4711"),
        (["drain", "show", "--key", "k"], "no drain was submitted with the key 'k'"),
        (["drain", "hv1", "--window", "late"], "a window like 22:00-04:00"),
        (["drain", "hv1", "--window", "22:00-04:00", "--timezone", "Mars"], "there is no time zone 'Mars'"),
        (["drain", "hv1", "--at", "soon"], "is no time"),
        (["drain", "hv1", "--every", "day"], "is no repetition"),
        (["drain", "hv1", "--seed-now"], "--seed-now needs a time for the rest: a window, or"),
        (["drain", "hv1", "--webhook", "here"], "--webhook is an address like https://HOST/PATH, not 'here'"),
        (["drain", "hv1", "--to", "hv2", "--to", "gone", "--exclude", "hv2"], "guests are to go to hv2, and not to"),
        (["drain", "hv1", "--window-end", "rollback"], "--window-end is what follows at the end of a window"),
        (["drain", "hv1", "--timezone", "Europe/Berlin"], "Europe/Berlin is given, and no time in it"),
        (["drain", "hv1", "--most-downtime-ms", "299"], "less than the target downtime of 300 ms"),
        (["return", "hv1", "--most-downtime-ms", "9", "--max-downtime-ms", "10"], "--most-downtime-ms is 9, less than"),
        (["drain", "hv1", "--no-verify", "--verify-rate", "9M/s"], "--verify-rate is how fast disks are compared"),
        (["drain", "hv1", "--ladder", "ask", "--most-downtime-ms", "500"], "counts for the measure longer"),
        (["drain", "hv1", "--ladder", "ask", "--slowest-writes", "9M/s"], "--slowest-writes counts for the measure"),
        (["migrate", "web", "--to", "hv2", "--back"], "--back is to where the guest came from: name no host"),
        (["migrate", "web", "--to", "hv2", "--disk", "0=/a", "--storage", "0=b"], "disk 0 is named with two places"),
        (["migrate", "web", "--to", "hv2", "--most-downtime-ms", "9"], "--most-downtime-ms is 9, less than the target"),
        (["migrate", "web", "--to", "hv2", "--bandwidth", "9K/s"], "--bandwidth is a whole number of bytes"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_anything_is_changed(words: list[str], said: str) -> None:
    result = drover(*words)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert document("drain", "list", "--all") == {"drains": []}
    assert document("job", "list", "--all") == {"jobs": []}


@pytest.mark.parametrize("words", [("drain", "hv1"), ("drain", "hv1", "--dry-run"), ("migrate", "web", "--to", "hv2")])
def test_a_window_that_is_too_short_starts_nothing_and_says_so(words: tuple[str, ...], answers: dict[str, Any]) -> None:
    answers["inspect"]["disks"][0]["virtual_size_bytes"] = 100 << 30  # 18 min at the assumed 100 MB/s
    result = drover(*words, "--window", "22:00-22:10")
    assert result.exit_code == (SOME_STAY if "--dry-run" in words else 2)
    assert "its window 22:00-22:10 UTC lasts 10 min: use a longer window" in result.output
    assert document("drain", "list", "--all") == {"drains": []}
    assert document("job", "list", "--all") == {"jobs": []}


def test_a_scheduled_drain_tells_when(database: None) -> None:
    found = drain("--at", "2099-01-01T22:00", "--timezone", "Europe/Berlin", "--window", "22:00-04:00", "--seed-now")
    assert found["not_before"] == "2099-01-01T21:00:00.000+00:00"
    assert found["window"] == {"start": "22:00", "end": "04:00", "timezone": "Europe/Berlin"}
    assert found["seed"] is True
    repeated = document("drain", "hv1", "--every", "0 22 * * 6")
    assert repeated["recurrence"] == {"cron": "0 22 * * 6", "timezone": "UTC"}
    assert repeated["not_before"] is not None


@pytest.mark.parametrize(
    ("state", "guest", "code", "said"),
    [
        (DrainState.DONE, GuestState.MOVED, 0, "done: hv1 is empty and in maintenance"),
        (DrainState.INCOMPLETE, GuestState.SKIPPED, 3, "incomplete: "),
        (DrainState.CANCELLED, GuestState.SKIPPED, 3, "cancelled: 0 of 1 guest had moved"),
    ],
)
def test_the_end_of_a_drain_has_its_exit_code(state: DrainState, guest: GuestState, code: int, said: str) -> None:
    number = drain()["id"]
    change(number, state, guest)
    result = drover("drain", "watch", str(number))
    assert result.exit_code == code
    assert result.stdout.startswith(said)


def test_an_operator_is_asked_for_by_the_exit_code() -> None:
    number = drain()["id"]
    change(number, DrainState.INCOMPLETE, GuestState.SKIPPED, job_id=insert_job(JobState.NEEDS_OPERATOR))
    assert drover("drain", "watch", str(number)).exit_code == 4


def test_watching_ends_at_its_timeout_and_the_drain_goes_on() -> None:
    number = drain()["id"]
    change(number, DrainState.RUNNING, GuestState.MOVING, job_id=insert_job(JobState.RUNNING))
    result = drover("drain", "watch", str(number), "--timeout", "0.1")
    assert result.exit_code == 5
    assert "web moving to hv2" in result.stderr
    assert f"`drover drain cancel {number}` ends it" in result.stderr


def test_a_running_drain_is_paused_resumed_and_cancelled() -> None:
    number = str(drain()["id"])
    change(int(number), DrainState.RUNNING, GuestState.WAITING)
    assert document("drain", "pause", number)["state"] == "paused"
    assert "paused" in drover("drain", "show", number).stdout
    assert document("drain", "resume", number)["state"] == "running"
    assert document("drain", "cancel", number)["state"] == "cancelling"
    assert drover("drain", "pause", number).exit_code == 2


def test_progress_and_remaining_time_of_each_guest() -> None:
    number = drain()["id"]
    change(number, DrainState.RUNNING, GuestState.MOVING, job_id=insert_job(JobState.RUNNING), estimate_s=100.0)
    [row] = document("drain", "show", str(number))["guests"]
    assert (row["bytes_copied"], row["bytes_total"], row["eta_s"]) == (2 << 30, 4 << 30, 50.0)


def test_a_cordoned_host_is_no_destination() -> None:
    assert document("host", "cordon", "hv2") == {"name": "hv2", "state": "cordoned"}
    assert "it is cordoned" in drain("--dry-run", code=SOME_STAY)["skipped"][0]["reason"]
    refused = drover("migrate", "web", "--to", "hv2")
    assert (refused.exit_code, "`drover host uncordon hv2`" in refused.stderr) == (2, True)
    assert document("host", "uncordon", "hv2")["state"] == "active"


def test_guests_are_described_and_forgotten() -> None:
    found = document("guest", "set", "web", "--priority", "5", "--anti-affinity", "db")
    assert (found["priority"], found["anti_affinity"], found["affinity"]) == (5, "db", None)
    assert document("guest", "set", "web", "--anti-affinity", "")["anti_affinity"] is None
    assert document("guest", "forget", "web") == {"forgotten": "web", "host": "hv1"}
    assert document("guest", "list") == {"guests": []}


def test_a_guest_that_is_being_moved_is_not_forgotten() -> None:
    insert_job(JobState.RUNNING)
    result = drover("guest", "forget", "web")
    assert result.exit_code == 2
    assert "job cancel" in result.stderr


def test_only_a_held_job_is_released() -> None:
    held = insert_job(JobState.RUNNING, hold=True)
    assert document("job", "release", str(held))["hold"] is False
    again = drover("job", "release", str(held))
    assert (again.exit_code, "there is nothing to release" in again.stderr) == (2, True)


def test_a_drain_is_released_with_all_its_held_moves() -> None:
    number = insert_job(JobState.RUNNING, hold=True)
    drain = _drain(hold=True, moving=number)
    assert document("drain", "release", str(drain))["id"] == drain
    assert document("job", "show", str(number))["hold"] is False
    again = drover("drain", "release", str(drain))
    assert (again.exit_code, "there is nothing to release" in again.stderr) == (2, True)


def _drain(*, hold: bool, moving: int) -> int:
    row = DrainGuest(guest="web", position=1, source="hv1", state=GuestState.MOVING, job_id=moving)
    with transaction() as session:
        drain = Drain(kind=DrainKind.DRAIN, host="hv1", state=DrainState.RUNNING, hold=hold, guests=[row])
        session.add(drain)
        session.flush()
        return drain.id


def test_a_job_under_way_is_changed() -> None:
    number = insert_job(JobState.RUNNING)
    document("job", "set", str(number), "--bandwidth", "50M/s", "--priority", "7")
    with transaction() as session:
        job = session.get_one(Job, number)
        assert (job.options.bandwidth_bytes_per_s, job.priority) == (50_000_000, 7)
        assert job.options.max_downtime_ms == MigrationOptions().max_downtime_ms
    nothing = drover("job", "set", str(number))
    assert (nothing.exit_code, "say what to change" in nothing.stderr) == (2, True)


def test_a_pause_longer_than_the_longest_that_was_allowed_is_allowed_from_then_on() -> None:
    number = insert_job(JobState.RUNNING, options=MigrationOptions(max_downtime_ms=1, most_downtime_ms=2))
    changed = drover("job", "set", str(number), "--max-downtime-ms", "20000")
    assert changed.exit_code == 0, changed.output
    with transaction() as session:
        options = session.get_one(Job, number).options
    assert (options.max_downtime_ms, options.most_downtime_ms) == (20_000, 20_000)


def test_a_job_that_has_ended_is_not_changed() -> None:
    result = drover("job", "set", str(insert_job(JobState.DONE)), "--priority", "7")
    assert (result.exit_code, "has ended" in result.stderr) == (2, True)


def test_without_a_broker_nothing_is_said_of_guests_whose_hosts_nobody_could_ask(answers: dict[str, Any]) -> None:
    answers["inspect"] = NoBroker("the broker cannot be reached")
    answers["inspect"].__cause__ = BrokerUnreachable("no Redis")
    for words in (("drain", "hv1", "--dry-run"), ("host", "ok-to-drain", "hv1"), ("drain", "hv1")):
        said = drover(*words)
        assert (said.exit_code, "is Redis running" in said.stderr) == (ExitCode.FAILED, True), said.output
    assert document("drain", "list", "--all") == {"drains": []}
