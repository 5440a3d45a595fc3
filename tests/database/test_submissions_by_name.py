"""What others send by task name may be anything: it is taken, or refused on record under its key."""

from typing import Any

import hypothesis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import delete, func, select

from drover.errors import PreconditionFailed
from drover.views import drain_queries, queries
from models import refusal
from models.database import transaction
from models.drain import Drain, DrainGuest, DrainState
from models.job import Disk, Event, Job, Step
from models.refusal import RefusedSubmission
from models.webhook import Delivery
from tests import factories
from tests.documents import plan
from tests.factories import guest, host
from workflows import tasks
from workflows.drain import planner
from workflows.migration import preflight
from workflows.submissions import DrainSubmission, Message, MigrationSubmission

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def fleet(database: None) -> None:
    for name in ("one", "two"):
        host(name)
    guest("web", "one")
    factories.limits(signed_submissions=False)


def recorded(key: str) -> Job | None:
    with transaction() as session:
        return session.scalar(select(Job).where(Job.idempotency_key == key))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"to": 5}, "to is a name that has 1 to 63 letters"),
        ({"to": "tw\0o"}, "to is a name that has 1 to 63 letters"),
        ({"to": None}, "to is missing: it is a name that has 1 to 63 letters"),
        ({"max_downtime_ms": "x"}, "max_downtime_ms is a whole number"),
        ({"max_blackout_ms": "x"}, "max_downtime_ms is a whole number"),
        ({"max_blackout_ms": 5, "max_downtime_ms": 5}, "'max_blackout_ms' is unknown here"),
        ({"version": 2}, "version is the version of the submission's fields, 1, not 2"),
        ({"at": "25:00"}, "at: '25:00' is no time"),
        ({"window": "22:00"}, "window: '22:00' is not understood"),
        ({"timezone": "Mars/Olympus", "at": "22:00"}, "there is no time zone 'Mars/Olympus'"),
        ({"seed_now": True}, "seed_now needs a time"),
        ({"max_downtime_ms": True}, "max_downtime_ms is a whole number"),
        ({"bandwidth_bytes_per_s": -1}, "bandwidth_bytes_per_s is a whole number"),
        ({"priority": "high"}, "priority is a whole number"),
        ({"priority": 2**40}, "priority is a whole number"),
        ({"hold": "yes"}, "hold is true or false"),
        ({"at": 22}, "at is a text"),
        ({"window": ["22:00", "04:00"]}, "window is a text"),
        ({"timezone": "\0"}, "timezone is a text"),
        ({"every": "0 22 * * 6"}, "'every' is unknown here"),
        ({"colour": "red"}, "'colour' is unknown here; the fields are"),
        ({"webhook": 5}, "webhook is an address"),
        ({"most_downtime_ms": 299}, "most_downtime_ms is 299, less than the target downtime of 300 ms"),
        ({"timezone": "Europe/Berlin"}, "Europe/Berlin is given, and no time in it"),
        ({"window_end": "rollback"}, "window_end is what follows at the end of a window"),
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


@pytest.mark.parametrize("who", [5, "\ud800", "nobody", None, ...])
def test_a_submission_for_a_guest_that_nobody_knows_is_refused_on_record(who: Any) -> None:
    said = {"to": "two", "idempotency_key": "k"} | ({} if who is ... else {"guest": who})
    tasks.submit(**said)
    assert recorded("k") is None
    with pytest.raises(PreconditionFailed, match=r"the submission with the key 'k' was refused: .*guest"):
        queries.id_of("k")


@pytest.mark.parametrize("where", [5, "nowhere", ["one"]])
def test_a_drain_of_a_host_that_nobody_knows_is_refused_on_record(where: Any) -> None:
    tasks.submit_drain(host=where, idempotency_key="k")
    with pytest.raises(PreconditionFailed, match=r"the submission with the key 'k' was refused: .*host"):
        drain_queries.id_of("k")


def test_a_submission_that_is_taken_later_replaces_its_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "plan", lambda *_: plan())
    tasks.submit(guest=5, to="two", idempotency_key="k")
    tasks.submit(guest="web", to=5, idempotency_key="k")
    assert (job := recorded("k")) is not None
    assert job.refused
    tasks.submit(guest="web", to="two", idempotency_key="k")
    assert (job := recorded("k")) is not None
    assert not job.refused
    with transaction() as session:
        assert session.scalars(select(RefusedSubmission)).all() == []
    tasks.submit(guest="web", to=5, idempotency_key="k")
    assert (again := recorded("k")) is not None
    assert again.id == job.id, "a later refusal does not take the key of a job"


def test_arguments_without_names_are_refused_on_record() -> None:
    tasks.submit("web", guest="web", to="two", idempotency_key="k")
    job = recorded("k")
    assert job is not None
    assert "an argument has no name" in str(job.error)


def test_the_old_name_of_the_downtime_is_taken_in_this_release() -> None:
    said = {"guest": "web", "to": "two", "max_blackout_ms": 50}
    assert MigrationSubmission.read(said).options().max_downtime_ms == 50


@pytest.mark.parametrize("said", [{}, {"job_id": "1"}, {"job_id": 0}, {"job_id": 2**70}, {"job_id": 1, "x": 1}])
def test_a_wrong_cancellation_is_logged_and_raises_nothing(said: dict[str, Any], caplog: Any) -> None:
    tasks.cancel(**said)
    assert "the job is not cancelled, it goes on: " in caplog.text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"to": 5}, "to is a list of names of hosts, each of which has 1 to 63 letters"),
        ({"to": "two"}, "to is a list of names of hosts, each of which has 1 to 63 letters"),
        ({"exclude": ["one", 5]}, "exclude is a list of names of hosts, each of which has 1 to 63 letters"),
        ({"max_downtime_ms": "x"}, "max_downtime_ms is a whole number"),
        ({"every": 5}, "every is a text"),
        ({"every": "x\0"}, "every is a text"),
        ({"webhook": "file:///"}, "webhook is an address"),
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
    with pytest.raises(PreconditionFailed, match="webhook is an address like https://HOST/PATH, not"):
        MigrationSubmission.read({"guest": "web", "to": "two", "webhook": url})
    tasks.submit(guest="web", to="two", idempotency_key="k", webhook=url)
    job = recorded("k")
    assert job is not None
    assert "webhook is an address" in str(job.error)
    with transaction() as session:
        assert session.scalars(select(Delivery)).all() == []


@pytest.mark.parametrize("url", ["http://localhost:8080/x?y=z", "https://[::1]/", "http://10.0.0.1"])
def test_what_is_an_address_is_taken(url: str) -> None:
    assert MigrationSubmission.read({"guest": "web", "to": "two", "webhook": url}).webhook == url


def test_a_refusal_is_told_where_the_address_is_allowed() -> None:
    factories.receiver()
    tasks.submit(guest="web", to="nowhere", idempotency_key="k", webhook="http://127.0.0.1:1/")
    job = recorded("k")
    assert job is not None
    assert "there is no host 'nowhere'" in str(job.error)
    with transaction() as session:
        assert session.scalars(select(Delivery)).one().url == "http://127.0.0.1:1/"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
KNOWN = st.sampled_from(["web", "one", "two", "22:00", "22:00-04:00", "Europe/Berlin", "0 22 * * 6"])
SETTINGS = hypothesis.settings(
    deadline=None, max_examples=150, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


def some_of(kind: type[Message]) -> st.SearchStrategy[dict[str, Any]]:
    """Messages with some of the fields of a submission, right and wrong, and sometimes others."""
    names = st.sampled_from(sorted({*kind.model_fields, "max_blackout_ms"})) | st.text()
    return st.dictionaries(names.filter(lambda name: name != "idempotency_key"), VALUES | KNOWN)


def anew() -> None:
    """Whatever an earlier example has left is gone."""
    with transaction() as session:
        for table in (Event, Delivery, Step, Disk, Job, DrainGuest, Drain, RefusedSubmission):
            session.execute(delete(table))


def records(kind: str) -> int:
    """Jobs, or drains, and refusals under the key."""
    rows: type[Job | Drain] = Job if kind == "job" else Drain
    with transaction() as session:
        count = select(func.count()).select_from(rows).where(rows.idempotency_key == "k")
        return (session.scalar(count) or 0) + (
            refusal.why(session, "job" if kind == "job" else "drain", "k") is not None
        )


@pytest.mark.thorough
@SETTINGS
@given(said=some_of(MigrationSubmission))
@example(said={"guest": "web", "to": "two"})
def test_whatever_is_submitted_becomes_a_job_or_a_refusal_on_record(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    monkeypatch.setattr(preflight, "plan", lambda *_: plan())
    anew()
    tasks.submit(**said, idempotency_key="k")
    assert records("job") == 1


@pytest.mark.thorough
@SETTINGS
@given(said=some_of(DrainSubmission))
@example(said={"host": "one"})
def test_whatever_drain_is_submitted_becomes_one_or_a_refusal_on_record(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    monkeypatch.setattr(planner._Survey, "ask_guests", lambda self: None)
    anew()
    tasks.submit_drain(**said, idempotency_key="k")
    assert records("drain") == 1
