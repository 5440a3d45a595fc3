"""Records of guests and jobs stay true under concurrent commands; commands report what is recorded."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from drover.errors import HostRefused, PreconditionFailed
from models.database import transaction
from models.drain import Drain, DrainKind
from models.guest import Guest
from models.host_rpc import Inspect, Question
from models.job import Job, JobState
from tests.cli.support import document, drover, end_job, insert_job
from tests.documents import inspection
from workers.preflight import checks
from workflows import guests
from workflows.drain import commands, planner
from workflows.drain.planner import DrainRequest
from workflows.migration import jobs, preflight

UNFINISHED = [state for state in JobState if state not in {JobState.DONE, JobState.ROLLED_BACK}]


def _web() -> Guest:
    with transaction() as session:
        return session.get_one(Guest, "web")


def _before_answer(monkeypatch: pytest.MonkeyPatch, kind: str, happens: Callable[[], Any]) -> None:
    """Something happens while a host is asked."""
    real: Callable[..., Any] = vars(preflight)["ask"]  # what stands in for it, see `answers`

    def ask(host: str, question: Question[Any]) -> Any:
        if question.kind == kind:
            happens()
        return real(host, question)

    monkeypatch.setattr(preflight, "ask", ask)


@pytest.mark.parametrize("state", UNFINISHED)
def test_a_guest_is_not_adopted_in_mid_job(database: None, answers: dict[str, Any], state: JobState) -> None:
    number = insert_job(state)
    result = drover("guest", "adopt", "web", "--host", "hv2", "--qmp", "/run/other.sock")
    assert result.exit_code == 2
    assert f"web is being moved already by job {number} from hv1 to hv2, which is {state}: " in result.stderr
    advice = f"job explain {number}" if state is JobState.NEEDS_OPERATOR else f"job cancel {number}"
    assert advice in result.stderr
    assert (_web().host, _web().qmp) == ("hv1", "/run/web.sock")
    assert drover("guest", "forget", "web").exit_code == 2


@pytest.mark.parametrize("state", UNFINISHED)
def test_what_a_job_has_started_is_not_adopted_under_another_name_in_mid_job(
    database: None, answers: dict[str, Any], state: JobState
) -> None:
    number = insert_job(state)
    answers["inspect"] = answers["inspect"] | {"job": number, "process": "boot/1/77/1"}
    result = drover("guest", "adopt", "new", "--host", "hv2", "--qmp", "/run/new.sock")
    assert result.exit_code == 2
    assert f"web is being moved already by job {number} from hv1 to hv2" in result.stderr


def test_what_a_job_has_started_is_adopted_once_that_has_ended(database: None, answers: dict[str, Any]) -> None:
    number = insert_job(JobState.DONE)
    answers["inspect"] = answers["inspect"] | {"job": number, "process": "boot/1/77/1"}
    assert drover("guest", "adopt", "new", "--host", "hv2", "--qmp", "/run/new.sock").exit_code == 0


def test_of_two_moves_of_a_guest_that_were_planned_at_once_the_second_names_the_first(
    database: None, answers: dict[str, Any]
) -> None:
    number = insert_job(JobState.QUEUED)
    with transaction() as session, pytest.raises(PreconditionFailed, match=f"already by job {number} .* job cancel"):
        guests.lock_as_planned(session, _web(), inspection())


@pytest.mark.parametrize("state", [JobState.DONE, JobState.ROLLED_BACK])
def test_a_guest_is_adopted_anew_after_its_job(database: None, answers: dict[str, Any], state: JobState) -> None:
    insert_job(state)
    assert drover("guest", "adopt", "web", "--host", "hv2", "--qmp", "/run/other.sock").exit_code == 0
    assert (_web().host, _web().qmp) == ("hv2", "/run/other.sock")


@pytest.mark.parametrize("word", ["adopt", "forget"])
def test_what_asks_while_a_job_is_being_written_down_waits_and_is_refused(
    database: None, answers: dict[str, Any], word: str
) -> None:
    refused: list[str] = []

    def ask_for_it() -> None:
        try:
            guests.adopt("web", "hv2", "/run/other.sock") if word == "adopt" else guests.forget("web")
        except PreconditionFailed as error:
            refused.append(str(error))

    with transaction() as session:
        guests.lock_as_planned(session, _web(), inspection())
        asking = threading.Thread(target=ask_for_it)
        asking.start()
        asking.join(0.5)
        assert asking.is_alive(), refused
        insert_job(JobState.QUEUED)
    asking.join(30)
    assert len(refused) == 1
    assert "is queued: wait for its end" in refused[0]
    assert _web().host == "hv1"


def test_a_guest_that_is_adopted_anew_while_its_hosts_are_asked_is_not_moved_by_the_old_plan(
    database: None, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _before_answer(monkeypatch, "plan_destination", lambda: guests.adopt("web", "hv1", "/run/other.sock"))
    with pytest.raises(PreconditionFailed, match="was adopted anew while its hosts were asked"):
        jobs.submit("web", "hv2")
    assert document("job", "list", "--all") == {"jobs": []}


def test_another_qemu_at_the_same_socket_is_not_moved_by_the_old_plan(
    database: None, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers["inspect"]["process"] = "boot/1/42/1000"

    def start_anew() -> None:
        answers["inspect"] = answers["inspect"] | {"process": "boot/1/43/2000"}
        answers["look_for_guest"] = {"launch_file": False}
        guests.adopt("web", "hv1", "/run/web.sock")

    _before_answer(monkeypatch, "plan_destination", start_anew)
    with pytest.raises(PreconditionFailed, match="was adopted anew while its hosts were asked"):
        jobs.submit("web", "hv2")


def test_a_guest_that_is_forgotten_while_its_hosts_are_asked_is_not_moved(
    database: None, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _before_answer(monkeypatch, "plan_destination", lambda: guests.forget("web"))
    with pytest.raises(PreconditionFailed, match="was forgotten while its hosts were asked"):
        jobs.submit("web", "hv2")
    assert document("job", "list", "--all") == {"jobs": []}


@pytest.mark.parametrize(
    ("known", "host", "qmp", "why"),
    [
        ({"process": "boot/1/42/1000"}, "hv1", "/run/watch.sock", "this QEMU (pid 42) is known as web already"),
        ({"uuid": "u-1"}, "hv2", "/run/web.sock", "the UUID u-1 is that of web on hv1 already"),
        ({}, "hv1", "/run/web.sock", "/run/web.sock on hv1 is the QMP socket of web already"),
    ],
)
def test_one_qemu_has_one_name(
    database: None, answers: dict[str, Any], known: dict[str, str], host: str, qmp: str, why: str
) -> None:
    answers["inspect"] |= known
    assert drover("guest", "adopt", "web", "--host", "hv1", "--qmp", "/run/web.sock").exit_code == 0
    words = ("guest", "adopt", "shop", "--host", host, "--qmp", qmp)
    result = drover(*words)
    assert result.exit_code == 2
    assert result.stderr == f"error: {why}: if shop is its new name, `drover guest forget web` first\n"
    assert drover("guest", "adopt", "web", "--host", host, "--qmp", qmp).exit_code == 0, "its own name may be told anew"
    assert drover("guest", "forget", "web").exit_code == 0
    assert drover(*words).exit_code == 0


@pytest.mark.parametrize("lives", [True, False])
def test_a_name_whose_guest_runs_is_not_given_to_another_qemu(
    database: None, answers: dict[str, Any], lives: bool
) -> None:
    answers["inspect"]["process"] = "boot/1/42/1000"
    assert drover("guest", "adopt", "web", "--host", "hv1", "--qmp", "/run/web.sock").exit_code == 0
    answers["inspect"] |= {"process": "boot/1/43/2000", "pid": 43}
    answers["look_for_guest"] = {"launch_file": False}
    if lives:
        answers["look_for_guest"] |= {"pid": 42, "process": "boot/1/42/1000"}
    result = drover("guest", "adopt", "web", "--host", "hv2", "--qmp", "/run/db.sock")
    assert result.exit_code == (2 if lives else 0)
    assert ("web runs on hv1 already (pid 42), and the QEMU at /run/db.sock on hv2" in result.stderr) == lives
    assert _web().host == ("hv1" if lives else "hv2")


def test_guests_without_uuid_and_of_unknown_process_are_told_apart(database: None, answers: dict[str, Any]) -> None:
    for name in ("one", "two"):
        assert drover("guest", "adopt", name, "--host", "hv1", "--qmp", f"/run/{name}.sock").exit_code == 0


def test_a_qemu_that_waits_for_a_migration_is_not_adopted(database: None, answers: dict[str, Any]) -> None:
    answers["inspect"]["runstate"] = "inmigrate"
    result = drover("guest", "adopt", "shop", "--host", "hv2", "--qmp", "/run/web.sock")
    assert result.exit_code == 2
    assert "adopt the guest where it runs" in result.stderr


def test_a_guest_with_two_names_from_before_is_not_moved_under_either(database: None, answers: dict[str, Any]) -> None:
    answers["inspect"]["process"] = "boot/1/42/1000"
    with transaction() as session:
        session.add(Guest(name="ghost", host="hv1", qmp="/run/watch.sock", process="boot/1/42/1000"))
    result = drover("migrate", "web", "--to", "hv2")
    assert result.exit_code == 2
    assert "is known as ghost already" in result.stderr


def test_looking_at_a_guest_that_has_moved_meanwhile_does_not_change_its_record(
    database: None, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers["inspect"]["process"] = "boot/1/42/1000"
    before = _web()
    with transaction() as session:
        session.get_one(Guest, "web").lives_on("hv2", "/run/web.sock", "boot/1/50/3000")
    guests.inspect(before)
    assert (_web().host, _web().process) == ("hv2", "boot/1/50/3000")


def test_cancel_of_a_job_at_work_says_that_it_is_requested_and_not_how_it_ends(database: None) -> None:
    number = insert_job(JobState.RUNNING)
    result = drover("job", "cancel", str(number))
    assert result.exit_code == 0
    assert result.stdout.startswith(f"cancellation of job {number} is requested")
    assert f"`drover job watch {number}`" in result.stdout


def test_cancel_of_a_queued_job_says_that_it_is_rolled_back(database: None) -> None:
    number = insert_job(JobState.QUEUED)
    assert drover("job", "cancel", str(number)).stdout == f"job {number} is rolled back: web stays on hv1\n"


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        (JobState.ROLLED_BACK, 3, "rolled back: web stays on hv1"),
        (JobState.DONE, 0, "done: web lives on hv2"),
        (JobState.NEEDS_OPERATOR, 4, "needs an operator"),
    ],
)
def test_cancel_and_wait_says_where_the_guest_is_in_the_end(
    database: None, ends: JobState, code: int, said: str
) -> None:
    number = insert_job(JobState.RUNNING)
    ending = end_job(number, ends, 0.5)
    result = drover("job", "cancel", str(number), "--wait")
    ending.join()
    assert result.exit_code == code
    assert said in result.stdout


def test_cancel_of_a_job_that_needs_an_operator_says_what_to_do_instead(database: None) -> None:
    number = insert_job(JobState.NEEDS_OPERATOR)
    result = drover("job", "cancel", str(number))
    assert result.exit_code == 2
    assert "has ended" not in result.stderr
    assert f"waits for an operator, it cannot be cancelled: `drover job explain {number}`" in result.stderr


@pytest.mark.parametrize(
    ("state", "where"), [(JobState.DONE, "web was moved to hv2"), (JobState.ROLLED_BACK, "web stayed on hv1")]
)
def test_cancel_of_a_job_that_has_ended_says_where_the_guest_went(database: None, state: JobState, where: str) -> None:
    result = drover("job", "cancel", str(insert_job(state)))
    assert result.exit_code == 2
    assert where in result.stderr


def test_a_submission_that_is_refused_because_of_the_job_with_its_own_key_answers_that_job(
    database: None, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers["plan_destination"] = "hv2 cannot take web: disk0.qcow2 exists already"
    _before_answer(monkeypatch, "plan_destination", lambda: insert_job(JobState.RUNNING, idempotency_key="k"))
    found = document("migrate", "web", "--to", "hv2", "--idempotency-key", "k")
    assert (found["idempotency_key"], found["state"]) == ("k", "running")


def test_submissions_with_one_key_at_the_same_moment_all_answer_the_same_job(
    database: None, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    affinity = threading.Barrier(3, timeout=30)
    _before_answer(monkeypatch, "plan_destination", affinity.wait)
    found: list[int] = []
    submitting = [
        threading.Thread(target=lambda: found.append(jobs.submit("web", "hv2", idempotency_key="k").id))
        for _ in range(3)
    ]
    for one in submitting:
        one.start()
    for one in submitting:
        one.join(60)
    assert len(found) == 3
    assert len(set(found)) == 1
    with transaction() as session:
        assert session.query(Job).count() == 1


def test_a_drain_that_is_refused_because_of_the_one_with_its_own_key_answers_that_one(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        with transaction() as session:
            session.add(Drain(kind=DrainKind.RETURN, host="hv1", idempotency_key="k"))
        raise PreconditionFailed("no guest that was drained from hv1 is away")

    monkeypatch.setattr(planner, "forecast", refuse)
    earlier, forecast = commands.submitted_or_forecast(DrainRequest(kind=DrainKind.RETURN, host="hv1"), "k")
    assert forecast is None
    assert earlier is not None
    assert earlier.idempotency_key == "k"


def test_drain_cancel_can_wait_for_the_end(database: None) -> None:
    drain = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="hv1"))
    result = drover("drain", "cancel", str(drain.id), "--wait", "--timeout", "60")
    assert result.exit_code == 3
    assert "cancelled" in result.stdout


def test_why_a_job_does_not_go_on_is_shown_in_every_state(database: None) -> None:
    number = insert_job(JobState.RUNNING, wait_reason="Redis refuses writes")
    for words in (("job", "list"), ("job", "show", str(number)), ("job", "explain", str(number))):
        assert "Redis refuses writes" in drover(*words).stdout
    assert document("job", "explain", str(number))["wait_reason"] == "Redis refuses writes"
    assert "Redis refuses writes" in drover("job", "watch", str(number), "--timeout", "0").stderr
    end_job(number, JobState.DONE, 0).join()
    assert document("job", "explain", str(number))["wait_reason"] is None, "it has ended"


@pytest.fixture
def asked(database: None, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """How each inspection is asked for: whether all is looked at, and whether anything is measured."""
    asked: list[tuple[bool, bool]] = []
    answer: Callable[..., Any] = vars(guests)["ask"]

    def ask(host: str, question: Inspect) -> Any:
        asked.append((question.moves, question.looks))
        return answer(host, question)

    monkeypatch.setattr(guests, "ask", ask)
    return asked


def test_nothing_is_measured_before_a_guest_goes_back_to_where_it_came_from(asked: list[tuple[bool, bool]]) -> None:
    preflight.plan(_web(), "hv2")
    insert_job(JobState.DONE, source="hv2", destination="hv1")
    preflight.plan(_web(), "hv2")
    preflight.plan(_web(), "hv2", tried=True)
    assert asked == [(True, True), (False, False), (True, True)]


def test_a_way_back_that_is_refused_is_inspected_once(asked: list[tuple[bool, bool]], answers: dict[str, Any]) -> None:
    insert_job(JobState.DONE, source="hv2", destination="hv1")
    snapshot = checks.disks.TEMPORARY_FILES.of("-snapshot")
    answers["inspect"] |= {"refusals": [snapshot.sentence], "checks": [snapshot.json_object()]}
    there = checks.at_destination([checks.rules.POLICY.found("/x is outside")])
    answers["plan_destination"] = HostRefused("hv2 cannot take web: all", host="hv2", checks=there)
    with pytest.raises(HostRefused, match=r"-snapshot.*; hv2 cannot take web: /x is outside"):
        preflight.plan(_web(), "hv2")
    assert asked == [(False, False)]
