"""Submissions by task name that a token has signed: what it permits, and what is forged, changed and sent again."""

import base64
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from drover.by_database import ByDatabase
from drover.settings import settings
from models import refusal
from models.access import Action, ApiToken, Bounds, Scope
from models.database import transaction
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.guest import Guest
from models.job import Event, Job, JobState
from models.plan import Plan
from models.refusal import RefusedSubmission
from models.webhook import Delivery
from tests import factories
from tests.documents import plan
from tests.factories import guest, host
from tests.tokens import SIGNED, Token
from workflows import access, permissions, tasks
from workflows.drain import commands, dispatcher, planner, reconciler
from workflows.migration import admission, preflight

pytestmark = pytest.mark.usefixtures("database")

SUBMIT, CANCEL, DRAIN, RETURN = (
    "drover.job.submit", "drover.job.cancel", "drover.drain.submit", "drover.drain.return",
)  # fmt: skip
TASKS = {DRAIN: tasks.submit_drain, RETURN: tasks.submit_return}
MOVE = {"guest": "web", "to": "two", "idempotency_key": "k"}
EMPTY = {"host": "one", "idempotency_key": "k"}


@pytest.fixture(autouse=True)
def fleet(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hosts; the fleet wants signatures, as every new one."""
    monkeypatch.setattr(preflight, "plan", lambda *_: plan())
    monkeypatch.setattr(planner._Survey, "ask_guests", lambda self: None)
    for name in ("one", "two", "three"):
        host(name)
    guest("web", "one", labels={"tier": "web"})


def job(key: str = "k") -> Job:
    with transaction() as session:
        return session.scalars(select(Job).where(Job.idempotency_key == key)).one()


def drain(key: str = "k") -> Drain:
    with transaction() as session:
        return session.scalars(select(Drain).where(Drain.idempotency_key == key)).one()


def untaken(kind: refusal.Kind = "job", key: str = "k") -> str:
    """Why nothing came of a submission of which nobody knows who sent it: it makes no job or drain."""
    table = Job if kind == "job" else Drain
    with transaction() as session:
        assert session.scalars(select(table.id).where(table.idempotency_key == key)).all() == []
        return str(refusal.why(session, kind, key))


def events_of(number: int) -> list[tuple[str, str]]:
    """Who did what, and what is said of it."""
    with transaction() as session:
        rows = session.scalars(select(Event).where(Event.job_id == number).order_by(Event.id)).all()
    return [(row.by, f"{row.action}: {row.sentence}") for row in rows]


def test_the_story_of_a_job_says_who_has_signed_its_submission() -> None:
    token = Token()
    sent = token.signed(SUBMIT, MOVE)
    assert token.secret not in str(sent)
    tasks.submit(**sent)
    assert not job().refused
    assert events_of(job().id)[0] == ("ada (message)", "submitted: web is to move from one to two")
    tasks.cancel(**token.signed(CANCEL, {"job_id": job().id}))
    assert ("ada (message)", "cancel: cancellation requested by ada (message)") in events_of(job().id)
    assert access.listed()[0].used_at is not None


def test_a_drain_and_the_story_of_each_of_its_moves_say_who_has_signed_it() -> None:
    tasks.submit_drain(**Token().signed(DRAIN, EMPTY))
    assert (drain().state, drain().submitted_by) == (DrainState.QUEUED, "ada (message)")


def test_a_new_fleet_takes_nothing_that_nobody_has_signed() -> None:
    factories.receiver()
    tasks.submit(**MOVE, webhook="http://127.0.0.1:1/")
    tasks.submit_drain(**EMPTY, webhook="http://127.0.0.1:1/")
    for why in (untaken(), untaken("drain")):
        assert "it is not signed" in why
        assert "`drover token add`" in why
        assert "`drover fleet set signed-submissions=no`" in why
    tasks.submit(**Token().signed(SUBMIT, MOVE))
    tasks.cancel(job_id=job().id)
    assert not job().cancel_requested
    with transaction() as session:
        assert session.scalars(select(Delivery)).all() == [], "anybody could have messages sent"


def test_what_nobody_has_signed_is_taken_where_the_operator_lets_it() -> None:
    factories.limits(signed_submissions=False)
    tasks.submit(**MOVE)
    tasks.submit_drain(**EMPTY)
    assert not job().refused
    assert not drain().refused
    assert events_of(job().id)[0][0] == SUBMIT
    tasks.cancel(job_id=job().id)
    assert job().cancel_requested


def test_who_fills_the_queue_with_what_is_refused_does_not_fill_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal, "MOST", 3)
    for number in range(10):
        tasks.submit(**MOVE | {"idempotency_key": str(number)})
    with transaction() as session:
        kept = set(session.scalars(select(RefusedSubmission.idempotency_key)))
    assert kept == {"7", "8", "9"}


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ({"scope": Scope.READ}, "ada may read only, and this needs `operate`"),
        ({"actions": (Action.CANCEL, Action.DRAIN)}, "the token of ada is for cancel, drain, and this is `submit`"),
        ({"hosts": ("one", "three")}, "is for the hosts one, three, and this is about two as well"),
        ({"hosts": ("two",)}, "is for the hosts two, and this is about one as well"),
        ({"selector": "tier=db"}, "is for guests with tier=db, which this one has not"),
        ({"selector": "tier=web,!pinned,rack"}, "which this one has not"),
    ],
)
def test_a_move_that_its_token_does_not_permit_is_refused_on_record(token: dict[str, Any], said: str) -> None:
    tasks.submit(**Token(**token).signed(SUBMIT, MOVE))
    assert job().refused
    assert said in str(job().error)
    assert events_of(job().id) == [("ada (message)", f"refused: {job().error}")]


@pytest.mark.parametrize(
    "token", [{}, {"actions": (Action.SUBMIT,)}, {"hosts": ("one", "two")}, {"selector": "tier=web|db,!pinned"}]
)
def test_a_move_that_its_token_permits_is_taken(token: dict[str, Any]) -> None:
    tasks.submit(**Token(**token).signed(SUBMIT, MOVE))
    assert not job().refused


@pytest.mark.parametrize(
    ("token", "more", "said"),
    [
        ({"scope": Scope.READ}, {}, "ada may read only"),
        ({"actions": (Action.SUBMIT,)}, {}, "is for submit, and this is `drain`"),
        ({"hosts": ("two", "three")}, {"to": ["two"]}, "this is about one as well"),
        ({"hosts": ("one", "two")}, {}, "its guests may go to any host: name theirs (`to`)"),
        ({"hosts": ("one", "two")}, {"to": ["two", "three"]}, "this is about three as well"),
        ({"selector": "tier=web"}, {}, "have `selector` say so, with all its terms"),
        ({"selector": "tier=web"}, {"selector": "tier=web|db"}, "have `selector` say so"),
    ],
)
def test_a_drain_that_its_token_does_not_permit_is_refused_on_record(
    token: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    tasks.submit_drain(**Token(**token).signed(DRAIN, EMPTY | more))
    assert drain().refused
    assert said in str(drain().error)


@pytest.mark.parametrize(
    ("token", "more"),
    [
        ({"hosts": ("one", "two")}, {"to": ["two"]}),
        ({"selector": "tier=web"}, {"selector": "!pinned,tier=web"}),
        ({"actions": (Action.DRAIN,)}, {}),
    ],
)
def test_a_drain_that_its_token_permits_is_taken(token: dict[str, Any], more: dict[str, Any]) -> None:
    tasks.submit_drain(**Token(**token).signed(DRAIN, EMPTY | more))
    assert not drain().refused


def test_guests_are_brought_home_only_from_hosts_that_the_token_is_for_and_only_now() -> None:
    home = {"host": "two", "idempotency_key": "k"}
    tasks.submit_return(**Token(hosts=("two", "three")).signed(RETURN, home | {"every": "0 22 * * 6"}))
    assert "submit it when it is due" in str(drain().error)
    with transaction() as session:
        away = Drain(kind=DrainKind.DRAIN, host="two", state=DrainState.DONE)
        away.guests = [DrainGuest(guest="web", source="two", position=1, state=GuestState.MOVED)]
        session.add(away)
    tasks.submit_return(**Token(hosts=("two", "three")).signed(RETURN, home))
    assert "this is about one as well" in str(drain().error)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ({"scope": Scope.READ}, "ada may read only"),
        ({"actions": (Action.SUBMIT,)}, "is for submit, and this is `cancel`"),
        ({"hosts": ("one",)}, "this is about two as well"),
        ({"selector": "tier=db"}, "which this one has not"),
    ],
)
def test_a_cancellation_that_its_token_does_not_permit_is_in_the_story_of_the_job(
    token: dict[str, Any], said: str
) -> None:
    number = factories.job("web", "two", state=JobState.RUNNING)
    tasks.cancel(**Token(**token).signed(CANCEL, {"job_id": number}))
    [(by, sentence)] = events_of(number)
    assert by == "ada (message)"
    assert sentence.startswith("refused: it is not cancelled: ")
    assert said in sentence
    with transaction() as session:
        assert not session.get_one(Job, number).cancel_requested


def _changed(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda sent: sent | {name: value}


def _signature_with(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda sent: sent | {"signature": sent["signature"] | {name: value}}


def _signed_later_by(seconds: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda sent: _signature_with("at", sent["signature"]["at"] + seconds)(sent)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_changed("to", "three"), "the signature does not hold"),
        (_changed("priority", 1), "the signature does not hold"),
        (_changed("hold", True), "the signature does not hold"),
        (_signature_with("token", 4711), "the signature does not hold"),
        (_signed_later_by(60), "the signature does not hold"),
        (_signature_with("at", 0), "a signature counts for 60 minutes: sign it anew"),
        (_signed_later_by(4000), "a signature counts for 60 minutes"),
        (_signature_with("ed25519", base64.b64encode(bytes(64)).decode()), "the signature does not hold"),
        (_signature_with("ed25519", "é" * 88), "the signature does not hold"),
        (_signature_with("ed25519", ""), "signature is an object with token, at and ed25519"),
        (_signature_with("more", 1), "signature is an object"),
        (_changed("signature", None), "signature is an object"),
        (_changed("signature", "drover_secret"), "signature is an object"),
    ],
)
def test_what_was_changed_on_its_way_is_refused_on_record_also_where_no_signature_is_needed(
    change: Callable[[dict[str, Any]], dict[str, Any]], said: str
) -> None:
    factories.limits(signed_submissions=False)
    tasks.submit(**change(Token().signed(SUBMIT, MOVE)))
    assert said in untaken()


def test_a_signature_is_for_one_task_and_for_all_of_its_arguments() -> None:
    tasks.submit_return(**Token().signed(DRAIN, EMPTY))
    assert "the signature does not hold" in untaken("drain")
    tasks.submit("web", **Token().signed(SUBMIT, MOVE))
    assert "an argument has no name" in str(job().error)
    assert job().refused
    tasks.submit(**{**Token().signed(SUBMIT, MOVE), "at": timedelta(1), "idempotency_key": "dated"})
    assert "is no plain JSON" in untaken(key="dated")


def test_who_reads_the_database_or_has_another_token_can_sign_nothing_as_somebody_else() -> None:
    ada, eve = Token(), Token()
    with transaction() as session:
        row = session.get_one(ApiToken, ada.number)
    for known in (eve.secret, row.digest.hex(), row.digest.decode("latin1"), (row.submission_key or b"").hex()):
        tasks.submit(**SIGNED(SUBMIT, MOVE, token=ada.number, secret=known))
        assert "the signature does not hold" in untaken()


def test_a_message_that_is_sent_again_changes_nothing_and_one_that_is_kept_for_later_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token, now = Token(), time.time()
    sent = token.signed(SUBMIT, MOVE)
    for _ in range(3):
        tasks.submit(**sent)
    with transaction() as session:
        assert session.scalar(select(func.count(Job.id))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 3700)
        kept = token.signed(SUBMIT, MOVE | {"idempotency_key": "kept"})
    tasks.submit(**kept)
    assert "sign it anew and send it again" in untaken(key="kept")


@pytest.mark.parametrize("how", ["revoked", "ended", "of an earlier version"])
def test_a_token_that_does_not_count_signs_nothing(how: str) -> None:
    token = Token(lifetime=timedelta(days=1))
    if how == "revoked":
        access.revoke(token.number)
    with transaction() as session:
        if how == "ended":
            session.execute(update(ApiToken).values(ends_at=func.clock_timestamp()))
        if how == "of an earlier version":
            session.execute(update(ApiToken).values(submission_key=None))
    tasks.submit(**token.signed(SUBMIT, MOVE))
    assert f"token {token.number} is not valid, is of an earlier version" in untaken()


def test_what_a_token_is_bound_to_is_looked_at_again_once_the_hosts_have_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def relabelled(*_: Any) -> Plan:
        with transaction() as session:
            session.execute(update(Guest).values(labels={"tier": "db"}))
        return plan()

    monkeypatch.setattr(preflight, "plan", relabelled)
    tasks.submit(**Token(selector="tier=web").signed(SUBMIT, MOVE))
    assert "which this one has not" in str(job().error)


def _revoked(token: Token) -> None:
    access.revoke(token.number)


def _narrowed(token: Token) -> None:
    with transaction() as session:
        session.get_one(ApiToken, token.number).bounds = Bounds(hosts=("one",), selector="tier=web")


def _relabelled(_: Token) -> None:
    with transaction() as session:
        session.get_one(Guest, "web").labels = {"tier": "db"}


MEANWHILE = [(_revoked, "was revoked: `drover "), (_narrowed, "this is about two as well"),
             (_relabelled, "for guests with tier=web, which this one has not")]  # fmt: skip


def admit() -> None:
    with transaction() as session:
        admission.admit(session, settings())


def advance() -> list[str]:
    with transaction() as session:
        return reconciler.advance(session, session.get_one(Drain, drain().id, with_for_update=True), settings())


@pytest.mark.parametrize(("change", "said"), MEANWHILE)
def test_a_move_that_waits_does_not_begin_once_its_token_does_not_permit_it_any_more(
    change: Callable[[Token], None], said: str
) -> None:
    token = Token(selector="tier=web")
    tasks.submit(**token.signed(SUBMIT, MOVE))
    change(token)
    admit()
    assert job().state is JobState.ROLLED_BACK
    assert said in events_of(job().id)[-1][1]
    assert job().started_at is None


def test_a_move_begins_whose_token_was_replaced_by_another() -> None:
    token = Token()
    tasks.submit(**token.signed(SUBMIT, MOVE))
    access.revoke(token.number, keep_submitted=True)
    tasks.submit(**token.signed(SUBMIT, MOVE | {"idempotency_key": "later"}))
    assert "is not valid" in untaken(key="later")
    admit()
    assert job().state is JobState.RUNNING


@pytest.mark.parametrize(("change", "said"), MEANWHILE)
def test_a_drain_begins_no_move_that_its_token_does_not_permit_any_more(
    change: Callable[[Token], None], said: str
) -> None:
    token = Token(selector="tier=web")
    tasks.submit_drain(**token.signed(DRAIN, EMPTY | {"selector": "tier=web", "to": ["two"]}))
    assert advance() == ["web"]
    change(token)
    dispatcher.submit(drain().id, "web")
    advance()
    with transaction() as session:
        assert session.scalars(select(Job)).all() == []
        row = session.get_one(DrainGuest, (drain().id, "web"))
    assert row.state is GuestState.SKIPPED
    assert said in str(row.reason)


def test_a_move_of_a_drain_that_waits_does_not_begin_once_the_token_of_the_drain_was_revoked() -> None:
    token = Token()
    tasks.submit_drain(**token.signed(DRAIN, EMPTY))
    advance()
    dispatcher.submit(drain().id, "web")
    _revoked(token)
    admit()
    with transaction() as session:
        [moved] = session.scalars(select(Job))
    assert (moved.state, "was revoked: `drover drain resume" in str(moved.error)) == (JobState.ROLLED_BACK, True)


@pytest.mark.parametrize("task", [DRAIN, RETURN])
@pytest.mark.parametrize(("change", "said"), MEANWHILE[:2])
def test_a_drain_or_return_that_waits_ends_once_its_token_does_not_permit_it_any_more(
    change: Callable[[Token], None], said: str, task: str
) -> None:
    token = Token()
    guest("db", "two")
    with transaction() as session:
        gone = DrainGuest(guest="db", source="one", position=1, state=GuestState.MOVED)
        session.add(Drain(kind=DrainKind.DRAIN, host="one", state=DrainState.DONE, guests=[gone]))
    where: dict[str, Any] = {"to": ["two"]} if task == DRAIN else {}
    TASKS[task](**token.signed(task, EMPTY | where | {"at": "2099-01-01T00:00Z"}))
    advance()
    assert drain().state is DrainState.QUEUED
    change(token)
    advance()
    assert drain().state is DrainState.CANCELLED
    assert said in str(drain().error)
    assert f"`drover {drain().kind} one` submits it anew" in str(drain().error)


def test_whoever_resumes_a_drain_lends_the_token_for_what_is_left_of_it() -> None:
    token = Token()
    tasks.submit_drain(**token.signed(DRAIN, EMPTY))
    advance()
    commands.pause(drain().id)
    _revoked(token)
    ByDatabase(permissions.operator()).on_drain(drain().id, "resume")
    advance()
    with transaction() as session:
        assert session.get_one(DrainGuest, (drain().id, "web")).state is GuestState.WAITING
