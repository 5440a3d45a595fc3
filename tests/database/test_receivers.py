"""Webhooks go only to receivers that an operator has listed, to the address that was checked, signed for them alone."""

import base64
import hashlib
import hmac
import json
import logging
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from drover import webhooks
from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.base import Base
from models.database import transaction
from models.drain import Drain, DrainKind
from models.job import Job, JobState
from models.transitions import JobEvent
from models.webhook import Delivery, DeliveryState, ReceiverSecret
from tests import factories
from tests.factories import guest, happens, host, job
from workflows import receivers, tasks
from workflows.addresses import is_public
from workflows.drain import commands
from workflows.drain.planner import DrainRequest
from workflows.migration import jobs
from workflows.submit_options import SubmitOptions

pytestmark = pytest.mark.usefixtures("database")


@dataclass
class Message:
    """What somebody got."""

    headers: dict[str, str]
    body: bytes

    def genuine(self, secret: str) -> bool:
        """By the package of Standard Webhooks, which knows nothing of us."""
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


@dataclass
class Place:
    """Somebody who listens: what it got, and what it answers."""

    port: int = 0
    got: list[Message] = field(default_factory=list)
    status: int = 204
    location: str | None = None


@contextmanager
def listening(address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Place]:
    """Somebody there takes whatever comes."""
    place = Place()

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            place.got.append(Message({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(place.status)
            if place.location:
                self.send_header("Location", place.location)
            self.end_headers()

        do_CONNECT = do_GET = do_POST  # noqa: N815 - a proxy gets these

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((address, port), Taker)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a handshake that the other side gives up
    place.port = server.server_port
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield place
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def place() -> Iterator[Place]:
    """Somebody on 127.0.0.1."""
    with listening() as made:
        yield made


@dataclass
class Names:
    """Names that only these tests know. Each time one is asked for, its next answer is given; the last one stays."""

    answers: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __setitem__(self, name: str, answers: list[list[str]]) -> None:
        self.answers[name] = answers


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Nothing real changes its answers on demand."""
    made, real = Names(), socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in made.answers:
            return real(host, *rest, **more)
        made.asked.append(name)
        answers = made.answers[name]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [row for address in addresses for row in real(address, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return made


def ours(**changed: str) -> Settings:
    return factories.ours(**{"webhook_key": factories.WEBHOOK_KEY} | changed)


def hosts_and_a_guest() -> None:
    for name in ("one", "two"):
        host(name)
    guest("web", "one")


def told(url: str, tries: int = 1, settings: Settings | None = None) -> Delivery:
    """A job ends, and its message to this URL is tried so often."""
    hosts_and_a_guest()
    number = job("web", "two", state=JobState.RUNNING, webhook=url)
    with transaction() as session:
        happens(session, session.get_one(Job, number), JobEvent.FINISH)
    for _ in range(tries):
        again(settings)
    return delivery()


def again(settings: Settings | None = None) -> None:
    webhooks.deliver(delivery().id, settings or ours())


def delivery() -> Delivery:
    with transaction() as session:
        return session.scalars(select(Delivery)).one()


# --- To whom ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_nothing_goes_where_nobody_allowed_it_however_it_is_written(place: Place, name: str) -> None:
    factories.receiver("10.0.0.0/8")
    made = told(f"http://{name}:{place.port}/")
    assert place.got == []
    assert "an operator allows it with `drover webhook allow " in str(made.error)
    assert (made.state, made.tries) == (DeliveryState.PENDING, 1)


def test_a_name_that_cannot_be_a_receiver_is_not_even_looked_up(names: Names) -> None:
    names["tunnel.evil.test"] = [["1.1.1.1"]]
    factories.receiver("hooks.invalid")
    told("http://tunnel.evil.test/")
    with pytest.raises(PreconditionFailed):
        receivers.check("http://tunnel.evil.test/")
    assert names.asked == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]"])
def test_a_listed_network_takes_messages_to_every_host_in_it(place: Place, name: str) -> None:
    secret = factories.receiver("127.0.0.0/8")
    told(f"http://{name}:{place.port}/x?y=z")
    [message] = place.got
    assert message.genuine(secret)
    assert message.headers["host"] == f"{name}:{place.port}"


OURS_ALONE = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "224.0.0.1", "239.1.2.3", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
    *("::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
    *("64:ff9b:1::1", "2002:a00:1::1", "2001:0:7f00:1::1"),
]


@pytest.mark.parametrize("address", OURS_ALONE)
def test_an_address_that_is_not_public_is_known(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"]
)
def test_a_public_address_is_known(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1", "fd00::1", "fe80::1"]
)
def test_a_listed_name_that_leads_to_no_public_address_gets_nothing(names: Names, place: Place, address: str) -> None:
    names["hooks.test"] = [["1.1.1.1"], [address]]
    factories.receiver("hooks.test")
    made = told(f"http://hooks.test:{place.port}/")
    assert place.got == []
    prefix = 128 if ":" in address else 32
    assert made.error == (
        f"hooks.test is {address} now, no public address: an operator allows it there with "
        f"`drover webhook allow hooks.test --within {address}/{prefix}`"
    )


@pytest.mark.parametrize("listed_network", [False, True])
def test_a_name_may_be_in_a_network_that_is_listed_for_it_or_for_all(
    names: Names, place: Place, listed_network: bool
) -> None:
    names["hooks.test"] = [["127.0.0.1"]]
    if listed_network:
        factories.receiver()
    secret = factories.receiver("hooks.test", within=() if listed_network else ["127.0.0.0/8"])
    told(f"http://hooks.test:{place.port}/")
    assert [message.genuine(secret) for message in place.got] == [True]
    assert place.got[0].headers["host"] == f"hooks.test:{place.port}"


def test_the_message_goes_to_the_address_that_was_checked_whatever_the_name_says_a_moment_later(names: Names) -> None:
    factories.receiver("127.0.0.1")
    with listening("127.0.0.1") as allowed, listening("127.0.0.2", allowed.port) as other:
        names["rebound.test"] = [["127.0.0.1"], ["127.0.0.2"]]
        told(f"http://rebound.test:{allowed.port}/")
        assert (len(allowed.got), len(other.got)) == (1, 0)
        assert names.asked == ["rebound.test"]


def test_each_try_looks_the_name_up_anew(names: Names, place: Place) -> None:
    factories.receiver("127.0.0.1")
    names["moving.test"] = [["127.0.0.2"], ["127.0.0.1"]]
    made = told(f"http://moving.test:{place.port}/")
    assert (made.state, place.got) == (DeliveryState.PENDING, [])
    again()
    assert (delivery().state, len(place.got)) == (DeliveryState.DELIVERED, 1)


def test_of_several_addresses_only_those_that_are_allowed_are_tried_until_one_takes_a_connection(names: Names) -> None:
    factories.receiver("127.0.0.0/30")
    with listening("127.0.0.2") as allowed, listening("127.0.0.9", allowed.port) as other:
        names["many.test"] = [["127.0.0.9", "127.0.0.1", "127.0.0.2"]]
        told(f"http://many.test:{allowed.port}/")
        assert (len(allowed.got), len(other.got)) == (1, 0)


def test_an_address_that_takes_no_connection_leaves_time_for_the_next(
    names: Names, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 3.0)
    factories.receiver()
    names["many.test"] = [["127.0.0.2", "127.0.0.1"]]
    with (
        socket.create_server(("127.0.0.2", place.port), backlog=0) as full,
        socket.create_connection(full.getsockname()),
    ):
        made = told(f"http://many.test:{place.port}/")
    assert (made.error, len(place.got)) == (None, 1)


def test_a_redirect_is_not_followed(place: Place) -> None:
    factories.receiver()
    with listening() as elsewhere:
        place.status, place.location = 307, f"http://127.0.0.1:{elsewhere.port}/"
        made = told(f"http://127.0.0.1:{place.port}/")
        assert (made.error, len(place.got), elsewhere.got) == ("it answered 307", 1, [])


def test_no_proxy_of_the_environment_gets_the_message(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    factories.receiver()
    with listening() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        told(f"http://127.0.0.1:{place.port}/")
        assert (len(place.got), proxy.got) == (1, [])


def _certificate(folder: Path, name: str) -> Path:
    words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN={name}"
    files = f"-addext subjectAltName=DNS:{name} -keyout {folder}/key -out {folder}/crt"
    subprocess.run(["openssl", *words.split(), *files.split()], check=True, capture_output=True)
    return folder / "crt"


@pytest.mark.parametrize(("name", "arrives"), [("hooks.test", True), ("other.test", False)])
def test_by_tls_the_receiver_must_be_the_one_that_the_url_names(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arrives: bool
) -> None:
    certificate = _certificate(tmp_path, "hooks.test")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, tmp_path / "key")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    webhooks._trusted.cache_clear()
    names[name] = [["127.0.0.1"]]
    factories.receiver(name, within=["127.0.0.0/8"])
    with listening(tls=tls) as place:
        made = told(f"https://{name}:{place.port}/")
        assert len(place.got) == arrives
    assert arrives or "certificate verify failed" in str(made.error)
    webhooks._trusted.cache_clear()


# --- What a submission is told ----------------------------------------------------------------------------------------

REFUSED = "no message may be sent to evil.test: an operator allows it with `drover webhook allow evil.test`"
EVIL = SubmitOptions(webhook="https://evil.test/")


def test_a_move_whose_webhook_is_not_allowed_is_refused_in_one_sentence() -> None:
    hosts_and_a_guest()
    with pytest.raises(PreconditionFailed) as refused:
        jobs.submit("web", "two", terms=EVIL)
    assert str(refused.value) == REFUSED


def test_a_drain_whose_webhook_is_not_allowed_is_refused_in_one_sentence() -> None:
    hosts_and_a_guest()
    with pytest.raises(PreconditionFailed) as refused:
        commands.submitted_or_forecast(DrainRequest(kind=DrainKind.DRAIN, host="one", terms=EVIL), None)
    assert str(refused.value) == REFUSED


def test_a_refusal_by_name_is_on_record_and_nothing_is_sent_to_who_is_not_allowed() -> None:
    hosts_and_a_guest()
    factories.limits(signed_submissions=False)
    tasks.submit(guest="web", to="two", idempotency_key="k", webhook=EVIL.webhook)
    tasks.submit_drain(host="one", idempotency_key="k", webhook=EVIL.webhook)
    with transaction() as session:
        assert session.scalars(select(Job)).one().error == REFUSED
        assert session.scalars(select(Drain)).one().error == REFUSED
        assert session.scalars(select(Delivery)).all() == []


def test_a_listed_name_that_nobody_knows_just_now_is_no_reason_to_refuse() -> None:
    factories.receiver("hooks.invalid")
    receivers.check("https://hooks.invalid/")
    with pytest.raises(PreconditionFailed, match=r"no message may be sent to others\.invalid"):
        receivers.check("https://others.invalid/")


def test_a_submission_names_a_name_in_a_listed_network(names: Names) -> None:
    names["inside.test"], names["outside.test"], names["public.test"] = [["10.1.2.3"]], [["192.168.1.1"]], [["1.1.1.1"]]
    factories.receiver("10.0.0.0/8")
    receivers.check("https://inside.test/")
    for name in ("outside.test", "public.test"):
        with pytest.raises(PreconditionFailed, match=f"no message may be sent to {name}"):
            receivers.check(f"https://{name}/")


# --- Signatures -------------------------------------------------------------------------------------------------------


def test_each_receiver_has_a_secret_of_its_own_and_the_smallest_network_counts(place: Place) -> None:
    wide, small = factories.receiver("127.0.0.0/8"), factories.receiver("127.0.0.1")
    told(f"http://127.0.0.1:{place.port}/")
    assert (place.got[0].genuine(small), place.got[0].genuine(wide)) == (True, False)


def test_every_try_has_the_same_id_and_the_headers_of_standard_webhooks(place: Place) -> None:
    factories.receiver()
    place.status = 500
    told(f"http://127.0.0.1:{place.port}/", tries=2)
    first, second = place.got
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == webhooks.message_id(delivery())
    assert "." not in first.headers["webhook-id"]
    assert first.headers["webhook-signature"].startswith("v1,")
    assert first.headers["content-type"] == "application/json"
    assert not any(name.startswith("x-drover") for name in first.headers)
    assert json.loads(first.body)["delivery"] == delivery().id


def test_the_id_of_a_message_does_not_depend_on_the_time_zone_of_who_sends_it() -> None:
    at = datetime(2026, 11, 27, 9, tzinfo=UTC)
    zones = (UTC, timezone(timedelta(hours=2)))
    assert len({webhooks.message_id(Delivery(id=1, created_at=at.astimezone(zone))) for zone in zones}) == 1


def test_receivers_of_the_version_before_find_their_signature_as_long_as_its_secret_is_set(place: Place) -> None:
    factories.receiver()
    told(f"http://127.0.0.1:{place.port}/", settings=ours(webhook_secret="between us"))
    [message] = place.got
    signed = message.headers["x-drover-timestamp"].encode() + b"." + message.body
    expected = hmac.new(b"between us", signed, hashlib.sha256).hexdigest()
    assert message.headers["x-drover-signature"] == f"sha256={expected}"


def test_during_a_rotation_both_secrets_prove_the_message_and_after_it_only_the_new_one(place: Place) -> None:
    old = factories.receiver()
    place.status = 500
    told(f"http://127.0.0.1:{place.port}/")
    [new] = receivers.rotate([factories.LOOPBACK], timedelta(hours=1), ours()).values()
    again()
    with transaction() as session:
        over = update(ReceiverSecret).where(ReceiverSecret.ends_at.is_not(None))
        session.execute(over.values(ends_at=func.clock_timestamp()))
    again()
    proven = [(message.genuine(old), message.genuine(new)) for message in place.got]
    assert proven == [(True, False), (True, True), (False, True)]


def test_a_stolen_secret_ends_at_once_also_in_the_overlap_of_an_earlier_rotation(place: Place) -> None:
    secrets = [factories.receiver()]
    for overlap in (timedelta(hours=1), timedelta(0)):
        secrets += receivers.rotate([factories.LOOPBACK], overlap, ours()).values()
    told(f"http://127.0.0.1:{place.port}/")
    assert [place.got[0].genuine(secret) for secret in secrets] == [False, False, True]


def test_a_secret_that_is_to_end_is_not_kept_longer_by_a_later_rotation() -> None:
    factories.receiver()
    receivers.rotate([factories.LOOPBACK], timedelta(hours=1), ours())
    newest_first = select(ReceiverSecret.ends_at).order_by(ReceiverSecret.id.desc())
    with transaction() as session:
        _, ends = session.scalars(newest_first)
    receivers.rotate([factories.LOOPBACK], timedelta(days=1), ours())
    with transaction() as session:
        assert session.scalars(newest_first).all()[2] == ends


def test_the_key_is_changed_while_secrets_of_the_former_one_are_in_use(place: Place) -> None:
    old = factories.receiver()
    changed = ours(webhook_key="n" * 32, webhook_key_former=factories.WEBHOOK_KEY)
    place.status = 500
    told(f"http://127.0.0.1:{place.port}/", settings=changed)
    [new] = receivers.rotate([factories.LOOPBACK], timedelta(hours=1), changed).values()
    again(changed)
    again(ours(webhook_key="n" * 32))
    proven = [(message.genuine(old), message.genuine(new)) for message in place.got]
    assert proven == [(True, False), (True, True), (False, True)]


def test_with_another_key_nothing_is_sent_and_the_row_says_what_to_do(place: Place) -> None:
    factories.receiver()
    made = told(f"http://127.0.0.1:{place.port}/", settings=ours(webhook_key="x" * 32))
    assert place.got == []
    assert "made with another DROVER_WEBHOOK_KEY than the controller has" in str(made.error)
    assert f"`drover webhook rotate {factories.LOOPBACK}`" in str(made.error)


def test_no_secret_is_in_the_database_or_the_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = factories.receiver()
    [newer] = receivers.rotate([factories.LOOPBACK], timedelta(hours=1), ours()).values()
    told(f"http://127.0.0.1:{place.port}/")
    assert place.got[0].genuine(secret)
    with transaction() as session:
        tables = Base.metadata.sorted_tables
        stored = "".join(
            str(session.scalar(text(f"SELECT coalesce(json_agg(t)::text, '') FROM {table.name} t"))) for table in tables
        )
    assert '"salt"' in stored
    for each in (secret, newer):
        raw = base64.b64decode(each.removeprefix("whsec_"))
        for shape in (each, each.removeprefix("whsec_").rstrip("="), raw.hex()):
            assert shape not in stored
            assert shape not in caplog.text


# --- Listing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' is neither a host name nor a network: write for example"),
        ("https://hooks.test/", "is neither a host name nor a network"),
        ("hooks test", "'hooks test' is neither a host name nor a network: write for example hooks.example.org"),
        ("-hooks.test", "is neither a host name nor a network"),
        ("$(reboot)", "is neither a host name nor a network"),
        ("", "is neither a host name nor a network"),
        ("a" * 64, "is neither a host name nor a network"),
    ],
)
def test_what_is_no_receiver_is_refused(name: str, said: str) -> None:
    with pytest.raises(PreconditionFailed) as refused:
        receivers.allow(name, (), ours())
    assert said in str(refused.value)
    assert receivers.listed() == []


def test_a_host_that_is_in_no_public_network_is_listed_with_where_it_is(names: Names) -> None:
    names["hooks.test"] = [["10.1.2.3"]]
    with pytest.raises(PreconditionFailed, match=r"`drover webhook allow hooks.test --within 10.1.2.3/32`"):
        receivers.allow("hooks.test", (), ours())
    with pytest.raises(PreconditionFailed, match=r"--within 192.168.0.0/16 --within 10.1.2.3/32`"):
        receivers.allow("hooks.test", ["192.168.0.0/16"], ours())
    assert receivers.listed() == []
    assert receivers.allow("Hooks.Test", ["10.0.0.0/8"], ours()).receiver.name == "hooks.test"


def test_a_receiver_that_is_listed_again_keeps_its_secret(names: Names, place: Place) -> None:
    names["hooks.test"] = [["127.0.0.1"]]
    secret = factories.receiver("hooks.test", within=["127.0.0.1"])
    assert receivers.allow("hooks.test", ["127.0.0.0/8"], ours()).secret is None
    told(f"http://hooks.test:{place.port}/")
    assert place.got[0].genuine(secret)


def test_a_receiver_that_was_removed_gets_nothing_not_even_what_waits(place: Place) -> None:
    factories.receiver()
    place.status = 500
    told(f"http://127.0.0.1:{place.port}/")
    receivers.remove(factories.LOOPBACK)
    again()
    assert len(place.got) == 1
    assert "no message may be sent to 127.0.0.1" in str(delivery().error)
    with pytest.raises(PreconditionFailed, match="is not listed"):
        receivers.remove(factories.LOOPBACK)


def test_without_a_key_no_receiver_is_listed_or_changed() -> None:
    factories.receiver()
    for change in (
        lambda: receivers.allow("hooks.invalid", (), ours(webhook_key="")),
        lambda: receivers.rotate([factories.LOOPBACK], timedelta(0), ours(webhook_key="")),
    ):
        with pytest.raises(PreconditionFailed, match="DROVER_WEBHOOK_KEY is not set here"):
            change()
    with transaction() as session:
        assert [secret.ends_at for secret in session.scalars(select(ReceiverSecret))] == [None]
