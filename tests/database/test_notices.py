"""Whether a guest may be moved now is asked before a drain moves it: yes, no, no answer, and an operator's word."""

import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from standardwebhooks.webhooks import Webhook

from drover.controller import notices as asking
from drover.errors import PreconditionFailed
from drover.settings import settings
from models.database import transaction
from models.documents import MigrationOptions, Notice
from models.drain import Drain, DrainGuest, DrainKind
from models.job import Event, Job
from models.notice import Answer, GuestNotice
from tests import factories
from tests.cli.support import document, drover
from tests.slow_receiver import slow_receiver
from workflows import policy_commands
from workflows.drain import notices, reconciler
from workflows.drain.notices import Standing

pytestmark = pytest.mark.usefixtures("database")

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def drain() -> int:
    """A drain of the host `one` with its guest web, about which policies may have somebody asked."""
    for name in ("one", "two"):
        factories.host(name)
    factories.guest("web", "one", labels={"tier": "db"})
    with transaction() as session:
        made = Drain(kind=DrainKind.DRAIN, host="one")
        session.add(made)
        session.flush()
        return made.id


def policy(**notice: Any) -> None:
    policy_commands.define("ask", "tier=db", 1, {"notice": notice})


def look(drain: int) -> list[str]:
    """What a look of the controller does: the guests whose jobs are to be submitted now."""
    with transaction() as session:
        return reconciler.advance(session, session.get_one(Drain, drain, with_for_update=True), settings())


def asked() -> list[GuestNotice]:
    with transaction() as session:
        return list(session.query(GuestNotice).order_by(GuestNotice.id))


def reason(drain: int) -> str:
    with transaction() as session:
        return str(session.get_one(DrainGuest, (drain, "web")).reason)


def passes(**time: float) -> None:
    """As if it had been asked and answered earlier."""
    ago = timedelta(**time)
    earlier = {"asked_at": GuestNotice.asked_at - ago, "answered_at": GuestNotice.answered_at - ago}
    with transaction() as session:
        session.execute(update(GuestNotice).values(earlier))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A program of the control node that the policy names."""
    monkeypatch.setenv("DROVER_HOOKS", str(tmp_path))
    settings.cache_clear()
    path = tmp_path / "may-move"
    yield path
    settings.cache_clear()


def says(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_nobody_is_asked_without_a_policy_that_says_so(drain: int) -> None:
    assert (look(drain), asked()) == (["web"], [])


def test_a_guest_is_moved_after_a_yes_and_its_job_tells_of_it(drain: int, program: Path) -> None:
    says(program, '[ "$DROVER_GUEST $DROVER_SOURCE $DROVER_DESTINATION $1" = "web one two --now" ]')
    policy(program=["may-move", "--now"])
    assert look(drain) == []
    assert "may-move --now is asked whether it may be moved now, for up to 10 s" in reason(drain)
    assert look(drain) == [], "it is asked once"
    [row] = asked()
    asking.ask(row, settings())
    assert look(drain) == ["web"]
    number = factories.job("web", "two", drain_id=drain)
    look(drain)
    with transaction() as session:
        [told] = session.query(Event).where(Event.job_id == number, Event.action == "notice").all()
        assert "may-move --now says yes to moving web now" in told.sentence
        notices.tell(session, session.get_one(Job, number))
        assert session.query(Event).where(Event.action == "notice").count() == 1


def test_after_a_no_a_guest_waits_with_the_reason_and_the_command_and_is_asked_again(drain: int, program: Path) -> None:
    says(program, "echo a backup runs; exit 1")
    policy(program=["may-move"])
    look(drain)
    asking.ask(asked()[-1], settings())
    assert look(drain) == []
    said = reason(drain)
    assert "may-move says no to moving web now: a backup runs; it is asked again at" in said
    assert f"`drover drain overrule {drain} web` moves it anyway" in said
    assert len(asked()) == 1
    passes(minutes=2)
    assert (look(drain), len(asked())) == ([], 2)


def test_a_guest_is_not_asked_about_before_the_time_that_was_named(drain: int, program: Path) -> None:
    later = datetime.now(UTC) + timedelta(hours=3)
    says(program, f"""echo '{json.dumps({"answer": "no", "not_before": later.isoformat()})}'; exit 1""")
    policy(program=["may-move"])
    look(drain)
    asking.ask(asked()[-1], settings())
    passes(hours=2)
    assert (look(drain), len(asked())) == ([], 1)
    assert f"it is asked again at {later:%Y-%m-%d %H:%M:%S} UTC" in reason(drain)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sleep 60", "within 0.2 s"),
        ("exit 3", "it failed (status 3)"),
        ("""echo '{"answer": "perhaps"}'; exit 1""", "its answer is not understood"),
        (None, "cannot be run"),
    ],
)
def test_without_an_answer_a_guest_waits_or_goes_on_as_its_policy_says(
    drain: int, program: Path, script: str | None, said: str
) -> None:
    if script is not None:
        says(program, script)
    policy(program=["may-move"], deadline_s=0.2)
    look(drain)
    asking.ask(asked()[-1], settings())
    assert look(drain) == []
    [row] = asked()
    assert row.answer is Answer.NONE
    assert said in str(row.reason)
    assert "did not say whether web may be moved now" in reason(drain)
    policy(program=["may-move"], deadline_s=0.2, silence="go-on")
    assert look(drain) == ["web"]


def test_an_operator_overrules_a_no_for_this_drain(drain: int, program: Path) -> None:
    says(program, "exit 1")
    policy(program=["may-move"])
    look(drain)
    asking.ask(asked()[-1], settings())
    look(drain)
    assert drover("drain", "overrule", str(drain), "web").exit_code == 0
    assert look(drain) == ["web"]
    assert asked()[-1].answer is Answer.OVERRULED
    factories.guest("other", "two")
    with pytest.raises(PreconditionFailed, match="is none of its guests"):
        notices.overrule(drain, "other", "x")


def test_an_answer_that_comes_after_an_operator_has_overruled_changes_nothing(drain: int, program: Path) -> None:
    says(program, "exit 1")
    policy(program=["may-move"])
    look(drain)
    notices.overrule(drain, "web", "alice")
    asking.ask(asked()[0], settings())
    assert look(drain) == ["web"]


def _row(answer: Answer | None, age_s: float, **more: Any) -> GuestNotice:
    at = NOW - timedelta(seconds=age_s)
    return GuestNotice(
        answer=answer, asked_at=at, answered_at=at if answer else None, notice=Notice(program=("x",)), **more
    )


@pytest.mark.parametrize(
    ("answer", "age_s", "silence", "expected"),
    [
        (Answer.YES, 1, "wait", Standing.MAY),
        (Answer.YES, 601, "wait", Standing.TO_ASK),
        (Answer.NO, 59, "go-on", Standing.MAY_NOT),
        (Answer.NO, 61, "wait", Standing.TO_ASK),
        (Answer.NONE, 1, "wait", Standing.MAY_NOT),
        (Answer.NONE, 1, "go-on", Standing.MAY),
        (Answer.OVERRULED, 10**6, "wait", Standing.MAY),
        (None, 1, "wait", Standing.ASKED),
        (None, 26, "go-on", Standing.TO_ASK),
    ],
)
def test_what_was_answered_holds_for_a_while(
    answer: Answer | None, age_s: float, silence: Any, expected: Standing
) -> None:
    notice = Notice(program=("x",), silence=silence)
    assert notices.standing(notice, _row(answer, age_s), NOW) is expected
    assert notices.standing(None, _row(Answer.NO, 1), NOW) is Standing.MAY
    assert notices.standing(notice, None, NOW) is Standing.TO_ASK


class _Asked(http.server.BaseHTTPRequestHandler):
    server: "_Server"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.reply)

    def log_message(self, *_: object) -> None:
        return


class _Server(http.server.HTTPServer):
    def __init__(self, reply: bytes, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.reply, self.status, self.got = reply, status, list[tuple[dict[str, str], bytes]]()

    def answers_once(self) -> str:
        threading.Thread(target=self.handle_request, daemon=True).start()
        return f"http://127.0.0.1:{self.server_address[1]}/may?token=hunter2"


@pytest.mark.parametrize(
    ("reply", "status", "expected", "why"),
    [
        (b'{"answer": "yes"}', 200, Answer.YES, None),
        (b'{"answer": "no", "reason": "a\\u001bbackup"}', 200, Answer.NO, "a backup"),
        (b'{"answer": "yes"}', 500, Answer.NONE, "it answered 500"),
        (b"x" * 100_000, 200, Answer.NONE, "its answer is not understood"),
    ],
)
def test_an_address_is_asked_by_a_signed_post(
    drain: int, reply: bytes, status: int, expected: Answer, why: str | None
) -> None:
    secret = factories.receiver()
    with _Server(reply, status) as server:
        policy(url=server.answers_once())
        look(drain)
        asking.ask(asked()[0], factories.ours(webhook_key=factories.WEBHOOK_KEY))
    [row] = asked()
    assert row.answer is expected
    assert (row.reason or "").startswith(why or "")
    [(headers, body)] = server.got
    told = Webhook(secret).verify(body, headers)
    assert (told["event"], told["guest"], told["destination"], told["drain"]) == ("guest.may_move", "web", "two", drain)
    assert "hunter2" not in row.sentence


def test_an_address_that_no_operator_has_allowed_is_refused_by_the_policy_and_not_asked(drain: int) -> None:
    with pytest.raises(PreconditionFailed, match="drover webhook allow"):
        policy(url="http://127.0.0.1:1/may")
    factories.receiver()
    policy(url="http://127.0.0.1:1/may")
    look(drain)
    with transaction() as session:
        session.execute(update(GuestNotice).values(notice=Notice(url="http://192.0.2.1/may")))
    asking.ask(asked()[0], settings())
    assert "drover webhook allow" in str(asked()[0].reason)


def test_an_answer_that_never_ends_is_given_up_at_the_deadline(drain: int) -> None:
    factories.receiver()
    with slow_receiver() as url:
        policy(url=url, deadline_s=0.5)
        look(drain)
        asking.ask(asked()[0], factories.ours(webhook_key=factories.WEBHOOK_KEY))
    assert asked()[0].reason == "it gave no answer within 0.5 s"


def test_addresses_show_no_more_than_their_host() -> None:
    options = MigrationOptions(notice=Notice(url="https://user:hunter2@dba.example.org/x?token=hunter2"))
    assert options.public()["notice"] == "dba.example.org"


def test_a_policy_names_programs_and_never_paths() -> None:
    with pytest.raises(PreconditionFailed, match="no name of a hook"):
        policy(program=["../may-move"])
    assert document("policy", "list")["policies"] == []
