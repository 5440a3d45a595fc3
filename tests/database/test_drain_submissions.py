"""A drain's guest whose turn it is: what happens while its hosts are asked, and whose trouble a refusal is."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from drover.broker.app import app
from drover.errors import DroverError, HostRefused, Unavailable
from drover.settings import settings
from models.database import transaction
from models.drain import Drain, DrainGuest, DrainKind, GuestState
from models.host import HostRequest, RequestState, reply
from models.host_rpc import Inspect, Refusal
from models.job import Job
from models.plan import Inspection, Plan
from tests import documents
from tests.factories import guest, host
from workers import host_rpc as answers
from workflows import host_rpc as questions
from workflows.drain import commands, dispatcher, reconciler
from workflows.drain.planner import DrainRequest
from workflows.migration import preflight

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def drain(database: None) -> int:
    """It runs, and has sent for the job of its only guest."""
    for name in ("one", "two"):
        host(name)
    guest("web", "one")
    number = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="one")).id
    with transaction() as session:
        assert reconciler.advance(session, session.get_one(Drain, number, with_for_update=True), settings()) == ["web"]
    return number


def row(drain_id: int) -> DrainGuest:
    with transaction() as session:
        return session.get_one(DrainGuest, (drain_id, "web"))


def submitted() -> list[Job]:
    with transaction() as session:
        return list(session.scalars(select(Job)))


def while_asked(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    def plan(*_: Any) -> Plan:
        do()
        return documents.plan()

    monkeypatch.setattr(preflight, "plan", plan)


def raising(error: Exception) -> Callable[[], object]:
    def fails() -> None:
        raise error

    return fails


def test_a_guest_whose_turn_it_is_gets_its_job(drain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    while_asked(monkeypatch, lambda: None)
    dispatcher.submit(drain, "web")
    assert [job.drain_id for job in submitted()] == [drain]


@pytest.mark.parametrize("what", [commands.cancel, commands.pause])
def test_a_drain_that_is_stopped_while_hosts_are_asked_moves_nothing(
    drain: int, monkeypatch: pytest.MonkeyPatch, what: Callable[[int], Drain]
) -> None:
    while_asked(monkeypatch, lambda: what(drain))
    dispatcher.submit(drain, "web")
    assert submitted() == []
    assert row(drain).refused_by == {}


def test_a_guest_that_was_left_while_hosts_were_asked_is_not_moved(drain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave() -> None:
        with transaction() as session:
            session.get_one(DrainGuest, (drain, "web")).move(GuestState.SKIPPED, "no")

    while_asked(monkeypatch, leave)
    dispatcher.submit(drain, "web")
    assert submitted() == []
    assert row(drain).state is GuestState.SKIPPED


def test_what_the_destination_refuses_makes_the_drain_look_for_another(
    drain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_asked(monkeypatch, raising(HostRefused("no room", host="two")))
    dispatcher.submit(drain, "web")
    assert row(drain).refused_by == {"two": "no room"}
    assert row(drain).asked_at is None


def test_what_the_source_refuses_leaves_the_guest_and_blames_no_destination(
    drain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_asked(monkeypatch, raising(HostRefused("web has a device that cannot move", host="one")))
    dispatcher.submit(drain, "web")
    assert (row(drain).state, row(drain).reason) == (GuestState.SKIPPED, "web has a device that cannot move")
    assert row(drain).refused_by == {}


def test_a_source_that_fails_to_look_is_asked_once_more(drain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    while_asked(monkeypatch, raising(HostRefused("one: OSError: I/O error", host="one", failed=True)))
    dispatcher.submit(drain, "web")
    assert row(drain).state is GuestState.WAITING
    assert "two" not in row(drain).refused_by
    dispatcher.submit(drain, "web")
    assert row(drain).state is GuestState.SKIPPED


@pytest.mark.parametrize("error", [Unavailable("nobody answers"), ZeroDivisionError("a bug")])
def test_what_nobody_refused_is_shown_and_asked_again(
    drain: int, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    while_asked(monkeypatch, raising(error))
    dispatcher.submit(drain, "web")
    found = row(drain)
    assert (found.state, found.refused_by) == (GuestState.WAITING, {})
    assert str(error) in str(found.reason)


@pytest.mark.parametrize("state", [RequestState.REFUSED, RequestState.FAILED])
def test_a_refusal_names_the_host_that_gave_it(
    database: None, monkeypatch: pytest.MonkeyPatch, state: RequestState
) -> None:
    host("one")

    def send_task(_: str, kwargs: dict[str, int], **__: Any) -> None:
        with transaction() as session:
            reply(session, kwargs["request_id"], state, Refusal(error="no"))

    monkeypatch.setattr(app, "send_task", send_task)
    with pytest.raises(HostRefused, match="no") as caught:
        questions.ask("one", Inspect(qmp="/q"))
    assert (caught.value.host, caught.value.failed) == ("one", state is RequestState.FAILED)


def test_what_goes_wrong_on_a_host_is_no_refusal_of_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any) -> Inspection:
        raise DroverError("QEMU does not answer")

    monkeypatch.setitem(answers.ANSWERS, "inspect", fails)
    state, told = answers._ask(HostRequest(id=1, kind="inspect", question={"qmp": "/q"}), settings())
    assert state is RequestState.FAILED
    assert isinstance(told, Refusal)
    assert "QEMU does not answer" in told.error
