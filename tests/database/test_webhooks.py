"""Webhooks: signed, written in the transaction that ends the job, repeated until they are accepted."""

import runpy
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import literal, select, update
from sqlalchemy.dialects.postgresql import JSONB

from drover import webhooks
from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.database import transaction
from models.drain import Drain, DrainKind, DrainState
from models.job import Job, JobState
from models.transitions import JobEvent
from models.webhook import Delivery, DeliveryState, Notification
from tests import factories
from tests.factories import guest, happens, host, job
from tests.helpers import until
from workflows.addresses import in_time
from workflows.migration import jobs
from workflows.submissions import DrainSubmission

OTHER = "whsec_" + b64encode(bytes(32)).decode()

pytestmark = pytest.mark.usefixtures("database")

RECEIVER = runpy.run_path(str(Path(__file__).parents[2] / "examples/webhook/receiver.py"))


@dataclass
class Inbox:
    """What a receiver has taken."""

    url: str
    secret: str
    messages: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def loopback() -> str:
    """All of 127.0.0.0/8 may be told; answers its secret."""
    return factories.receiver()


@pytest.fixture
def inbox(loopback: str) -> Iterator[Inbox]:
    """The receiver of the examples."""
    made = Inbox("", loopback)
    server = RECEIVER["serve"](0, loopback, made.messages.append)
    made.url = f"http://127.0.0.1:{server.server_port}/"
    with _running(server):
        yield made


@pytest.fixture
def refusing(loopback: str) -> Iterator[str]:
    """A receiver that is out of order."""

    class Broken(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    with _running(server):
        yield f"http://127.0.0.1:{server.server_port}/"


class _running:  # noqa: N801 - reads as a verb
    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.server, self.thread = server, threading.Thread(target=server.serve_forever, args=(0.02,))

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def ended_job(url: str) -> int:
    for name in ("one", "two"):
        host(name)
    guest("web", "one")
    number = job("web", "two", state=JobState.RUNNING, webhook=url)
    with transaction() as session:
        happens(session, session.get_one(Job, number), JobEvent.FINISH)
    return number


def delivery() -> Delivery:
    with transaction() as session:
        return session.scalars(select(Delivery)).one()


def ours(**changed: str) -> Settings:
    return factories.ours(**{"webhook_key": factories.WEBHOOK_KEY} | changed)


def test_the_end_of_a_job_is_told_and_the_signature_proves_by_whom(inbox: Inbox) -> None:
    number = ended_job(inbox.url)
    webhooks.deliver(delivery().id, ours())
    [message] = inbox.messages
    assert message["event"] == "job.done"
    assert (message["job"]["id"], message["job"]["guest"], message["job"]["destination"]) == (number, "web", "two")
    assert delivery().state is DeliveryState.DELIVERED


def test_the_end_of_a_drain_is_told(inbox: Inbox) -> None:
    host("one")
    with transaction() as session:
        drain = Drain(kind=DrainKind.DRAIN, host="one", state=DrainState.RUNNING, webhook=inbox.url)
        session.add(drain)
        session.flush()
        drain.move(session, DrainState.DONE)
    webhooks.deliver(delivery().id, ours())
    assert [(message["event"], message["drain"]["host"]) for message in inbox.messages] == [("drain.done", "one")]


def test_what_was_delivered_is_not_sent_again(inbox: Inbox) -> None:
    ended_job(inbox.url)
    for _ in range(2):
        webhooks.deliver(delivery().id, ours())
    assert len(inbox.messages) == 1


def test_a_message_that_is_not_taken_is_tried_again_later_and_in_the_end_given_up(refusing: str) -> None:
    ended_job(refusing)
    webhooks.deliver(delivery().id, ours())
    first = delivery()
    assert (first.state, first.tries, first.error) == (DeliveryState.PENDING, 1, "it answered 500")
    for _ in range(webhooks.TRIES - 1):
        webhooks.deliver(first.id, ours())
    assert delivery().state is DeliveryState.FAILED
    later = delivery().next_at - first.next_at
    assert webhooks.FIRST_PAUSE < later < webhooks.LONGEST_PAUSE + timedelta(minutes=1)


def test_an_address_where_nobody_listens_is_no_disaster(loopback: str) -> None:
    ended_job("http://127.0.0.1:1/")
    webhooks.deliver(delivery().id, ours())
    assert "ConnectError" in str(delivery().error)


def test_without_a_key_nothing_is_sent_and_the_row_says_so(inbox: Inbox) -> None:
    ended_job(inbox.url)
    webhooks.deliver(delivery().id, ours(webhook_key=""))
    assert inbox.messages == []
    assert delivery().error == "the controller has no DROVER_WEBHOOK_KEY to sign with: set it"


def test_a_wrong_signature_and_an_old_one_are_refused_by_the_receiver(inbox: Inbox) -> None:
    for secret, at, fine in (
        (inbox.secret, datetime.now(UTC), True),
        (OTHER, datetime.now(UTC), False),
        (inbox.secret, datetime.now(UTC) - timedelta(minutes=6), False),
    ):
        signed = webhooks.headers("msg_1", "{}", [secret], at)
        assert RECEIVER["genuine"](signed, b"{}", inbox.secret) is fine
    assert not RECEIVER["genuine"]({}, b"{}", inbox.secret)
    assert not RECEIVER["genuine"](signed | {"webhook-signature": "x"}, b"\xff", inbox.secret)


def test_a_refused_submission_is_told_too(inbox: Inbox) -> None:
    for name in ("one", "two"):
        host(name)
    guest("web", "one")
    jobs.record_refusal("web", "two", "k", "no room", by="test", webhook=inbox.url)
    webhooks.deliver(delivery().id, ours())
    assert [message["job"]["error"] for message in inbox.messages] == ["no room"]


@pytest.mark.parametrize("url", ["ftp://somewhere/", "somewhere", "https://"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(PreconditionFailed, match="webhook is an address like https://HOST/PATH, not"):
        DrainSubmission.read({"host": "one", "webhook": url})


class _Dripping:
    """Takes a message and answers one byte at a time: no single read lasts long, and all of it longer than anybody
    may wait.
    """

    LASTS_S = 5.0
    """Who waits for the end is not kept longer."""

    def __init__(self, first: bytes = b"") -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}/"
        self.first, self.seen, self.over = first, 0, threading.Event()
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "_Dripping":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.server.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                self.seen += 1
                threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.sendall(self.first or b"HTTP/1.1 200 OK\r\nX-Slow: ")
            end = time.monotonic() + self.LASTS_S
            while not self.over.wait(0.05) and time.monotonic() < end:
                connection.sendall(b"x")


def test_a_receiver_that_answers_byte_by_byte_is_given_up_after_a_time_for_all_of_it(
    monkeypatch: pytest.MonkeyPatch, loopback: str
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 1.0)
    with _Dripping() as receiver:
        ended_job(receiver.url)
        webhooks.deliver(delivery().id, ours())
    assert delivery().error == "it did not answer within 1 s"


def test_a_body_that_never_ends_is_not_read(loopback: str) -> None:
    with _Dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n") as receiver:
        ended_job(receiver.url)
        webhooks.deliver(delivery().id, ours())
    assert delivery().state is DeliveryState.DELIVERED


def test_of_an_answer_no_more_is_read_than_is_wanted(loopback: str) -> None:
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n" + b"0123456789"
    with _Dripping(begun) as receiver:
        sending = webhooks.send(receiver.url, "msg_1", "{}", ours(), timeout_s=2.0, most_bytes=4)
        assert in_time(sending, 2.0) == (200, b"0123")


@pytest.mark.parametrize("url", ["http://[", "file:///", "http://h/\r\nX: y", ""])
def test_an_address_that_an_earlier_version_took_fails_like_any_other(url: str) -> None:
    ended_job(url)
    webhooks.deliver(delivery().id, ours())
    assert (delivery().state, delivery().tries) == (DeliveryState.PENDING, 1)
    assert delivery().error


def test_a_message_that_cannot_be_put_together_is_counted_too(inbox: Inbox) -> None:
    ended_job(inbox.url)
    with transaction() as session:
        session.execute(update(Delivery).values(body=literal(["no", "document"], JSONB)))
    webhooks.deliver(delivery().id, ours())
    assert "Notification is not understood" in str(delivery().error)


@pytest.mark.parametrize("due", [1, 3 * webhooks.PARALLEL])
def test_slow_receivers_get_few_threads_and_no_delivery_is_sent_again_before_it_is_over(
    monkeypatch: pytest.MonkeyPatch, due: int
) -> None:
    monkeypatch.setattr(webhooks, "UNDER_WAY", timedelta(seconds=-1))  # as if it were long over
    over = threading.Event()

    def slow(delivery_id: int, _: Settings) -> None:
        begun.append(delivery_id)
        over.wait(60)

    begun: list[int] = []
    monkeypatch.setattr(webhooks, "deliver", slow)
    body = Notification(event="job.done", at=datetime.now(UTC))
    with transaction() as session:
        session.add_all(Delivery(url="http://slow/", body=body) for _ in range(due))
    most = min(due, webhooks.PARALLEL)
    try:
        for _ in range(3):
            webhooks.tick(ours())
        until("as many as may are under way", lambda: len(begun) >= most)
    finally:
        over.set()
        until("they are over", lambda: not webhooks._under_way)
    assert len(begun) == len(set(begun)) == most
