"""Outages that a job outlived are among its events: a silent host, no controller, a Redis that takes no messages."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from drover.controller import loop
from drover.views import queries
from models.controller import Controller
from models.database import transaction
from models.host import Host
from models.job import Event, Job, JobState
from tests import factories
from workers import registration
from workflows import outages
from workflows.wait_reasons import UNATTENDED

PATIENCE = timedelta(seconds=20)


@pytest.fixture
def job(database: None) -> int:
    """One under way from hv1 to hv2 that began an hour ago; another one has ended."""
    for name in ("hv1", "hv2", "hv3"):
        factories.host(name)
    factories.guest("web", on="hv1")
    factories.guest("old", on="hv1")
    began = func.clock_timestamp() - timedelta(hours=1)
    factories.job("old", "hv2", state=JobState.DONE, created_at=began)
    return factories.job("web", "hv2", state=JobState.RUNNING, created_at=began)


def events() -> list[tuple[int, str, str]]:
    with transaction() as session:
        return [
            (event.job_id, event.action, event.sentence) for event in session.scalars(select(Event).order_by(Event.id))
        ]


def silent(host: str, seconds: float) -> None:
    with transaction() as session:
        heard = func.clock_timestamp() - timedelta(seconds=seconds)
        session.execute(update(Host).where(Host.name == host).values(heartbeat_at=heard))


@pytest.mark.parametrize("host", ["hv1", "hv2"])
def test_a_host_that_was_silent_says_so_once_in_the_stories_of_its_moves(job: int, host: str) -> None:
    silent(host, 100)
    ours = factories.ours(host=host, address="127.0.0.1")
    registration.register(ours)
    registration.register(ours)
    [(number, action, sentence)] = events()
    assert (number, action) == (job, "outage")
    assert sentence == f"{host} was silent for 1:40: its worker was down, or could not reach the database"


def test_a_short_silence_and_that_of_a_host_which_has_no_part_in_it_are_in_no_story(job: int) -> None:
    silent("hv1", 10)
    silent("hv3", 100)
    with transaction() as session:
        for host in ("hv1", "hv3", "new"):
            outages.host_is_back(session, host, PATIENCE)
    assert events() == []


def test_a_controller_that_was_away_is_in_the_stories_and_a_first_one_is_not(job: int) -> None:
    with transaction() as session:
        outages.controller_looks(session, "controller")
    assert events() == []
    with transaction() as session:
        session.execute(update(Controller).values(looked_at=func.clock_timestamp() - timedelta(seconds=42)))
        outages.controller_looks(session, "controller")
        outages.controller_looks(session, "controller")
    assert events() == [(job, "outage", "no controller was active for 42 s: no step was begun meanwhile")]


def test_a_job_that_came_later_did_not_outlive_an_outage(job: int) -> None:
    silent("hv1", 100)
    with transaction() as session:
        session.execute(update(Job).values(created_at=func.clock_timestamp()))
        outages.host_is_back(session, "hv1", PATIENCE)
    assert events() == []


def test_a_redis_that_takes_no_messages_is_in_the_story_when_it_begins_and_when_it_is_over(
    job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = []

    class Chain:
        def apply_async(self, **_: object) -> None:
            published.append(job)

    monkeypatch.setattr(loop, "remaining_chain", lambda _: Chain())
    for fault in ("OOM command not allowed", "OOM command not allowed", None, None):
        with transaction() as session:
            found = session.get_one(Job, job)
            loop._publish(session, found, found.steps[0], fault)
    told = [(action, sentence) for _, action, sentence in events()]
    assert [action for action, _ in told] == ["held_up", "goes_on"]
    assert told[0][1].endswith(
        "waits, the guest runs on: Redis takes no messages: OOM command not allowed (`drover doctor` says what to mend)"
    )
    assert len(published) == 2


def test_a_controller_that_gave_up_the_lead_a_moment_ago_is_not_called_missing(job: int) -> None:
    """As it does again and again while Redis takes no messages."""
    assert queries.snapshot(job).job.wait_reason == UNATTENDED
    with transaction() as session:
        outages.controller_looks(session, "controller")
    assert queries.snapshot(job).job.wait_reason != UNATTENDED
    with transaction() as session:
        session.execute(update(Controller).values(looked_at=func.clock_timestamp() - timedelta(seconds=21)))
    assert queries.snapshot(job).job.wait_reason == UNATTENDED
