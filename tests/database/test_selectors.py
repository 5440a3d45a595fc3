"""Labels of guests and hosts, selectors of what has them, and guests that no drain moves."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from drover.errors import PreconditionFailed
from drover.metrics import gauges
from drover.settings import settings
from models.database import transaction
from models.drain import Drain, DrainKind, DrainState, GuestState
from models.guest import Guest
from models.host import Host, HostState
from models.job import JobState
from tests import factories
from workflows import fleet_limits, guests
from workflows.drain import commands, reconciler
from workflows.drain.planner import DrainRequest
from workflows.guests import NeverDrain
from workflows.selectors import Selector, relabelled, shown
from workflows.submissions import DrainSubmission

LABELS = [{}, {"tier": "db"}, {"tier": "web"}, {"tier": "db", "pinned": ""}, {"pinned": "yes"}]


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("tier=db", [1, 3]),
        ("tier=db|web", [1, 2, 3]),
        ("tier!=db", [0, 2, 4]),
        ("tier", [1, 2, 3]),
        ("!tier", [0, 4]),
        ("tier = db , !pinned", [1]),
        ("pinned=yes", [4]),
    ],
)
@pytest.mark.usefixtures("database")
def test_a_selector_means_the_same_in_a_statement_and_without_one(text: str | None, selected: list[int]) -> None:
    selector = Selector.read(text)
    assert [number for number, labels in enumerate(LABELS) if selector.matches(labels)] == selected
    factories.host("hv1")
    for number, labels in enumerate(LABELS):
        factories.guest(str(number), on="hv1", labels=labels)
    with transaction() as session:
        found = session.scalars(select(Guest.name).where(selector.condition(Guest.labels)).order_by(Guest.name))
        assert list(map(int, found)) == selected


@pytest.mark.parametrize("text", ["", "tier=", "=db", "tier=db,,x", "tier>3", "!tier=db", "a b", "tier=db|", "-x"])
def test_what_is_no_selector_says_how_one_is_written(text: str) -> None:
    if not text:
        assert Selector.read(text) == Selector()
        return
    with pytest.raises(PreconditionFailed, match=r"in the selector .* is not understood: write KEY=VALUE"):
        Selector.read(text)


def test_labels_are_set_and_taken_away_and_wrong_ones_refused() -> None:
    labels = relabelled({"old": "1"}, ["tier=db", "pinned", "empty="], ["old"])
    assert labels == {"tier": "db", "pinned": "", "empty": ""}
    assert shown(labels) == "empty,pinned,tier=db"
    assert relabelled(labels, ["tier=web"], ["empty", "pinned"]) == {"tier": "web"}
    for added, removed in (
        (["a=b=c"], []),
        (["=x"], []),
        (["a,b"], []),
        ([], ["old"]),
        ([f"k{n}" for n in range(33)], []),
    ):
        with pytest.raises(PreconditionFailed, match=r"label"):
            relabelled(labels, added, removed)


@pytest.fixture
def fleet(database: None) -> None:
    """A database guest that is pinned, one that is not, and a web server, on the first of two hosts."""
    for name in ("one", "two"):
        factories.host(name)
    for name in ("db1", "db2", "web"):
        factories.guest(name, on="one")
    for name, labels in {"db1": ["tier=db", "pinned"], "db2": ["tier=db"], "web": ["tier=web"]}.items():
        guests.describe(name, labels=labels)


def _advance(number: int) -> list[str]:
    with transaction() as session:
        return reconciler.advance(session, session.get_one(Drain, number, with_for_update=True), settings())


def _moved(name: str) -> None:
    with transaction() as session:
        session.get_one(Guest, name).host = "two"


def _state(number: int) -> tuple[DrainState, HostState, dict[str, str | None]]:
    with transaction() as session:
        drain, host = session.get_one(Drain, number), session.get_one(Host, "one")
        return (
            drain.state,
            host.state,
            {row.guest: row.reason for row in drain.guests if row.state is not GuestState.MOVED},
        )


@pytest.mark.usefixtures("fleet")
def test_a_drain_of_some_guests_moves_these_and_leaves_the_host_cordoned() -> None:
    asked = DrainSubmission.read({"host": "one", "selector": "tier=db,!pinned"})
    number = commands.submit(DrainRequest.of(DrainKind.DRAIN, asked)).id
    assert _advance(number) == ["db2"]
    _moved("db2")
    _advance(number)
    assert _state(number) == (DrainState.DONE, HostState.CORDONED, {})
    for name in ("db1", "web"):
        _moved(name)
    number = commands.submit(DrainRequest.of(DrainKind.DRAIN, asked)).id
    _advance(number)
    assert _state(number)[1] is HostState.MAINTENANCE, "it is empty"


def test_a_drain_with_a_wrong_selector_is_refused_before_anything() -> None:
    with pytest.raises(PreconditionFailed, match="selector: 'tier>3'"):
        DrainRequest.of(DrainKind.DRAIN, DrainSubmission.read({"host": "one", "selector": "tier>3"}))


@pytest.mark.usefixtures("fleet")
def test_a_guest_that_is_never_drained_stays_until_its_date_and_the_drain_says_why() -> None:
    with transaction() as session:
        at = session.scalars(select(func.now())).one()
    guests.describe("db1", never_drain=NeverDrain(reason="its licence is bound to one", until=at + timedelta(hours=1)))
    number = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="one")).id
    assert set(_advance(number)) == {"db2", "web"}
    for name in ("db2", "web"):
        _moved(name)
    _advance(number)
    state, _, left = _state(number)
    assert state is DrainState.INCOMPLETE
    assert "never drained until" in str(left["db1"])
    assert "its licence is bound to one (`drover guest set db1 --never-drain ''` ends that)" in str(left["db1"])
    commands.resume(number)
    guests.describe("db1", never_drain="")
    assert _advance(number) == ["db1"]
    past = NeverDrain(reason="x", until=at - timedelta(hours=1))
    assert guests.describe("db1", never_drain=past).stays(datetime.now(UTC)) is None


@pytest.mark.usefixtures("fleet")
def test_labels_of_a_host_are_set_beside_its_limits() -> None:
    host = fleet_limits.describe_host("one", {}, ["rack=r1"])
    assert host.labels == {"rack": "r1"}
    factories.job("db1", "two", state=JobState.RUNNING)
    with transaction() as session:
        at = datetime.now(UTC)
        metrics = [*gauges.of_hosts(session, at, settings()), *gauges.of_jobs(session, at, settings())]
    told = {(one.name, *one.labels.values()) for metric in metrics for one in metric.samples}
    assert {("drover_host_label", "one", "rack", "r1"), ("drover_guest_label", "db1", "tier", "db")} <= told
    assert ("drover_guest_label", "db2", "tier", "db") not in told, "series of guests that are moved alone"
    assert fleet_limits.describe_host("one", {"bandwidth_bytes_per_s": 10**6}, (), ["rack"]).labels == {}
