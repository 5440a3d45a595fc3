"""What others send by task name may be anything: it is taken, or refused on record under its key."""

from typing import Any

import pytest
from sqlalchemy import select

from drover.errors import PreconditionFailed
from models.database import transaction
from models.drain import Drain, DrainState
from models.job import Job
from models.webhook import Delivery
from tests.factories import guest, host
from workflows import tasks
from workflows.migration import jobs
from workflows.migration.jobs import MigrationOptions
from workflows.submit_options import SubmitOptions

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def fleet(database: None) -> None:
    for name in ("one", "two"):
        host(name)
    guest("web", "one")


def recorded(key: str) -> Job | None:
    with transaction() as session:
        return session.scalar(select(Job).where(Job.idempotency_key == key))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"to": 5}, "to is a text"),
        ({"to": "tw\0o"}, "to is a text"),
        ({"to": None}, "to is a text"),
        ({"max_downtime_ms": "x"}, "max_downtime_ms is a whole number"),
        ({"max_downtime_ms": True}, "max_downtime_ms is a whole number"),
        ({"bandwidth_bytes_per_s": -1}, "bandwidth_bytes_per_s is a whole number"),
        ({"priority": "high"}, "priority is a whole number"),
        ({"priority": 2**40}, "priority is a whole number"),
        ({"hold": "yes"}, "hold is true or false"),
        ({"at": 22}, "at is a text"),
        ({"window": ["22:00", "04:00"]}, "window is a text"),
        ({"timezone": "\0"}, "timezone is a text"),
        ({"every": "0 22 * * 6"}, "a job moves its guest once"),
        ({"colour": "red"}, "says something that nobody understands"),
        ({"webhook": 5}, "is no address to tell"),
    ],
)
def test_a_wrong_submission_is_refused_on_record(wrong: dict[str, Any], said: str) -> None:
    tasks.submit(**{"guest": "web", "to": "two", "idempotency_key": "k"} | wrong)
    job = recorded("k")
    assert job is not None
    assert job.refused
    assert said in str(job.error)


@pytest.mark.parametrize("key", [5, "", "k\0", "k" * 129, None, ["k"]])
def test_a_submission_under_no_usable_key_raises_nothing(key: Any) -> None:
    tasks.submit(guest="web", to="two", idempotency_key=key)
    tasks.submit_drain(host="one", idempotency_key=key)
    with transaction() as session:
        assert session.scalars(select(Job).where(Job.error.is_(None))).all() == []


@pytest.mark.parametrize("wrong", [{"guest": 5}, {"guest": "\ud800"}])
def test_a_guest_that_is_none_raises_nothing(wrong: dict[str, Any]) -> None:
    tasks.submit(**{"guest": "web", "to": "two", "idempotency_key": "k"} | wrong)
    assert recorded("k") is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"to": 5}, "to is a list of hosts"),
        ({"to": "two"}, "to is a list of hosts"),
        ({"exclude": [5]}, "exclude is a text"),
        ({"max_downtime_ms": "x"}, "max_downtime_ms is a whole number"),
        ({"every": 5}, "every is a text"),
        ({"every": "x\0"}, "every is a text"),
        ({"webhook": "file:///"}, "is no address to tell"),
    ],
)
def test_a_wrong_drain_is_refused_on_record(wrong: dict[str, Any], said: str) -> None:
    tasks.submit_drain(host="one", idempotency_key="k", **wrong)
    with transaction() as session:
        drain = session.scalars(select(Drain)).one()
    assert drain.state is DrainState.CANCELLED
    assert said in str(drain.error)


ADDRESSES = [
    "file:///",
    "file:///etc/passwd",
    "http://[",
    "http://host:port/",
    "http://host/\r\nX-Evil: 1",
    "https://",
    "http://:80/",
    "http://a b/",
    "somewhere",
    "",
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_what_is_no_address_is_refused_in_one_sentence_and_nothing_is_queued_to_it(url: str) -> None:
    with pytest.raises(PreconditionFailed, match="write https://HOST/PATH"):
        SubmitOptions(webhook=url)
    tasks.submit(guest="web", to="two", idempotency_key="k", webhook=url)
    job = recorded("k")
    assert job is not None
    assert "is no address to tell" in str(job.error)
    with transaction() as session:
        assert session.scalars(select(Delivery)).all() == []


@pytest.mark.parametrize("url", ["http://localhost:8080/x?y=z", "https://[::1]/", "http://10.0.0.1"])
def test_what_is_an_address_is_taken(url: str) -> None:
    assert SubmitOptions(webhook=url).webhook == url


def test_a_refusal_is_told_where_the_address_is_one() -> None:
    tasks.submit(guest="web", to="nowhere", idempotency_key="k", webhook="http://127.0.0.1:1/")
    job = recorded("k")
    assert job is not None
    assert "there is no host 'nowhere'" in str(job.error)
    with transaction() as session:
        assert session.scalars(select(Delivery)).one().url == "http://127.0.0.1:1/"


def test_options_and_terms_of_wrong_types_are_refused_wherever_they_come_from() -> None:
    with pytest.raises(PreconditionFailed, match="max_downtime_ms"):
        MigrationOptions(max_downtime_ms=0)
    with pytest.raises(PreconditionFailed, match="hold"):
        SubmitOptions(hold=1)  # type: ignore[arg-type]
    assert jobs.record_refusal(object(), "two", "k", "why", by="test") is None
