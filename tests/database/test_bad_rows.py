"""One row that raises stops no other: it gets a reason, is set aside for a while, and everything else goes on."""

from collections.abc import Iterator

import pytest
from kombu.exceptions import OperationalError as BrokerUnreachable
from sqlalchemy import func, text

from drover.broker.app import app
from drover.controller import loop
from drover.settings import settings
from models.database import transaction
from models.drain import Drain, DrainKind, DrainState
from models.job import CLAIMED, Job, JobState, StepState
from tests.documents import NOWHERE
from tests.factories import guest, host, job, limits, load
from workflows import isolation
from workflows.drain import commands
from workflows.drain.planner import DrainRequest
from workflows.migration import admission

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def fleet(database: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hosts and guests; nothing is published."""
    monkeypatch.setattr(loop, "_publish", lambda session, job, step, fault: None)
    monkeypatch.setattr(app, "send_task", lambda *_, **__: None)
    isolation.PAUSES.clear()
    for name in ("one", "two", "three"):
        host(name)
    for name in ("bad", "good"):
        guest(name, "one")
    yield
    isolation.PAUSES.clear()


def look() -> None:
    limits(max_outgoing=100, max_incoming=100)
    loop.tick(settings())


def spoil(job_id: int) -> None:
    """A time that Python cannot hold: the row cannot even be read."""
    with transaction() as session:
        session.execute(text("UPDATE job SET not_before = 'infinity' WHERE id = :id"), {"id": job_id})


def wait_reason(table: str, row_id: int) -> str:
    with transaction() as session:
        return str(session.scalar(text(f"SELECT wait_reason FROM {table} WHERE id = :id"), {"id": row_id}))


def test_a_window_in_an_unknown_time_zone_stops_no_other_job(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = job("bad", "two", window=NOWHERE, priority=9), job("good", "two")
    look()
    assert load(good).state is JobState.RUNNING
    assert load(bad).state is JobState.QUEUED
    assert "there is no time zone 'Mars/Olympus'" in wait_reason("job", bad)
    assert any(f"job {bad} " in record.message and record.exc_info for record in caplog.records)


def test_a_waiting_job_that_cannot_be_read_stops_no_other() -> None:
    bad, good = job("bad", "two", priority=9), job("good", "two")
    spoil(bad)
    look()
    assert load(good).state is JobState.RUNNING
    assert wait_reason("job", bad).startswith(isolation.TROUBLE)


def test_what_a_job_raises_when_it_begins_takes_no_room_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Job.apply

    def fails(self: Job, *args: object, **kwargs: object) -> None:
        apply(self, *args, **kwargs)  # type: ignore[arg-type]
        if self.guest == "bad":
            raise ValueError("half-way")

    monkeypatch.setattr(Job, "apply", fails)
    bad, good = job("bad", "two", priority=9), job("good", "two")
    limits(max_outgoing=1)
    with transaction() as session:
        troubled = admission.admit(session, settings())
    assert list(troubled) == [bad]
    assert load(bad).state is JobState.QUEUED
    assert load(good).state is JobState.RUNNING


def test_a_running_job_that_cannot_be_read_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[int] = []
    monkeypatch.setattr(loop, "_publish", lambda session, job, step, fault: published.append(job.id))
    bad, good = job("bad", "two", state=JobState.RUNNING), job("good", "two", state=JobState.RUNNING)
    spoil(bad)
    look()
    assert published == [good]
    assert wait_reason("job", bad).startswith(isolation.TROUBLE)


def test_a_running_job_that_goes_on_again_no_longer_says_what_was_wrong() -> None:
    number = job("bad", "two", state=JobState.RUNNING)
    spoil(number)
    look()
    with transaction() as session:
        session.execute(text("UPDATE job SET not_before = NULL"))
    isolation.PAUSES.clear()
    look()
    assert load(number).wait_reason is None


def test_a_claim_that_cannot_be_taken_away_keeps_no_other_from_it() -> None:
    numbers = [job(name, "two", state=JobState.RUNNING) for name in ("bad", "good")]
    with transaction() as session:
        for number in numbers:  # no attempt is on record for it: taking the claim away raises
            step = session.get_one(Job, number).steps[0]
            step.state, step.token, step.owner, step.lease_until = StepState.RUNNING, 1, "x", func.now()
        session.execute(
            text(
                "INSERT INTO attempt (job_id, token, seq, direction, owner, started_at) "
                "VALUES (:id, 1, 1, 'do', 'x', now())"
            ),
            {"id": numbers[1]},
        )
    look()
    assert load(numbers[0]).steps[0].state in CLAIMED
    assert load(numbers[1]).steps[0].state is StepState.PENDING
    assert wait_reason("job", numbers[0]).startswith(isolation.TROUBLE)


def test_a_job_that_cannot_go_on_with_its_returned_host_keeps_no_other_from_it() -> None:
    bad, good = (job(name, "two", state=JobState.NEEDS_OPERATOR) for name in ("bad", "good"))
    spoil(bad)
    look()
    assert load(good).state is JobState.RUNNING
    assert wait_reason("job", bad).startswith(isolation.TROUBLE)


def test_a_drain_that_raises_stops_no_other() -> None:
    guest("third", "three")
    bad = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="one")).id
    good = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="three")).id
    with transaction() as session:
        session.get_one(Drain, bad).window = NOWHERE
        session.get_one(Drain, bad).priority = 9
    look()
    with transaction() as session:
        assert session.get_one(Drain, good).state is DrainState.RUNNING
        assert session.get_one(Drain, bad).state is DrainState.QUEUED
    assert "there is no time zone 'Mars/Olympus'" in wait_reason("drain", bad)


def test_a_row_that_raises_again_and_again_is_looked_at_less_and_less() -> None:
    pauses = isolation.Pauses()
    lengths = [pauses.failed("admit", 1) for _ in range(10)]
    assert lengths[:3] == [2.0, 4.0, 8.0]
    assert lengths[-1] == isolation.LONGEST_PAUSE_S
    assert pauses.due("admit", [1, 2]) == [2]
    pauses.succeeded("admit", 1)
    assert pauses.due("admit", [1]) == [1]


def test_a_part_of_a_look_that_fails_keeps_no_other_part_from_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(loop, "admit", fails)
    number = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="one")).id
    job("good", "two")
    with pytest.raises(ZeroDivisionError):
        look()
    with transaction() as session:
        assert session.get_one(Drain, number).state is DrainState.RUNNING


def test_a_broker_that_is_away_concerns_every_row_and_is_shown_on_the_one_that_met_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise BrokerUnreachable("nobody listens")

    monkeypatch.setattr(loop, "_publish", fails)
    number = job("good", "two", state=JobState.RUNNING)
    with pytest.raises(BrokerUnreachable):  # there is no Redis in this test
        look()
    assert wait_reason("job", number) == f"{isolation.TROUBLE}OperationalError: nobody listens"
    assert isolation.PAUSES.due("advance", [number]) == [number], "it goes on as soon as the broker is back"
