"""The schema on real Postgres: from empty, from each earlier revision, and in step with the models."""

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

import migrations
from models.database import engine, transaction
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.guest import Guest
from models.host import Host, HostState
from models.job import Job, JobState, Step, StepState
from models.webhook import Delivery
from tests import fleet_rows
from workflows import live_migration

pytestmark = pytest.mark.usefixtures("database")

REVISIONS = [revision.revision for revision in ScriptDirectory.from_config(migrations.config()).walk_revisions()]


def _empty() -> None:
    with engine().begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


@pytest.mark.parametrize("revision", [None, *reversed(REVISIONS)])
def test_the_schema_can_be_brought_up_to_date_from_any_revision(revision: str | None) -> None:
    _empty()
    if revision:
        migrations.upgrade(revision)
    migrations.upgrade()
    command.check(migrations.config())  # the models ask for nothing more


def test_the_schema_can_be_taken_back_to_nothing() -> None:
    command.downgrade(migrations.config(), "base")
    migrations.upgrade()


def test_going_back_before_drains_keeps_the_jobs_of_guests_that_are_known() -> None:
    for name in ("one", "two"):
        fleet_rows.host(name)
    for name in ("web", "forgotten"):
        fleet_rows.guest(name, "one")
    with transaction() as session:
        drain = Drain(kind=DrainKind.DRAIN, host="one", state=DrainState.DONE)
        drain.guests = [DrainGuest(guest="web", position=1, source="one", state=GuestState.MOVED)]
        session.add(drain)
        session.flush()
        drain_id = drain.id
    kept = fleet_rows.job("web", "two", state=JobState.DONE, drain_id=drain_id)
    fleet_rows.job("forgotten", "two", state=JobState.DONE)
    with transaction() as session:
        session.get_one(DrainGuest, (drain_id, "web")).job_id = kept
        session.delete(session.get_one(Guest, "forgotten"))
        session.add(Delivery(url="http://127.0.0.1:1/", drain_id=drain_id, body={}))
    command.downgrade(migrations.config(), "0002")
    migrations.upgrade()
    with transaction() as session:
        assert [job.id for job in session.query(Job)] == [kept]
        assert len(session.get_one(Job, kept).disks) == 1


def test_every_state_can_be_stored() -> None:
    with transaction() as session:
        for name in ("one", "two"):
            session.add(
                Host(name=name, address="::1", guest_root="/", incarnation="x", heartbeat_at=text("now()"), facts={})
            )
        session.flush()
        for state in JobState:
            session.add(Guest(name=state, host="one", qmp="/q"))
            session.flush()
            session.add(Job(guest=state, source="one", destination="two", state=state))
        job = Job(guest="done", source="one", destination="two", state=JobState.DONE)
        job.steps = live_migration.steps("one", "two")[: len(StepState)]
        for step, step_state in zip(job.steps, StepState, strict=True):
            step.state = step_state
        session.add(job)
    with transaction() as session:
        assert {job.state for job in session.query(Job)} == set(JobState)
        assert {step.state for step in session.query(Step)} == set(StepState)


def test_every_state_of_hosts_and_drains_can_be_stored() -> None:
    common = {"address": "::1", "guest_root": "/", "incarnation": "x", "heartbeat_at": text("now()"), "facts": {}}
    with transaction() as session:
        for host_state in HostState:
            session.add(Host(name=host_state, state=host_state, **common))
        for state in DrainState:
            session.add(Host(name=state, **common))
            session.flush()
            guests = [
                DrainGuest(guest=guest_state, position=0, source=state, state=guest_state) for guest_state in GuestState
            ]
            session.add(Drain(kind=DrainKind.DRAIN, host=state, state=state, guests=guests))
    with transaction() as session:
        assert {host.state for host in session.query(Host)} == set(HostState)
        assert {drain.state for drain in session.query(Drain)} == set(DrainState)
        assert {guest.state for guest in session.query(DrainGuest)} == set(GuestState)
