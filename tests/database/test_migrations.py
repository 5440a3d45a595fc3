"""The schema on real Postgres: from empty, from each earlier revision, and in step with the models."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Table, select, text

import migrations
from lab import fleet
from lab.directory import Lab
from migrations.rights import Purpose
from models import refusal
from models.access import ApiToken, ConsoleUser, Scope
from models.base import Base
from models.budget import Budget
from models.controller import Controller
from models.database import engine, transaction
from models.documents import Hook, HostFacts, MigrationOptions, Notice
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState, PlanApproval, SubmittedPlan
from models.event_action import EventAction
from models.fleet import limits
from models.guest import Guest
from models.host import Host, HostRequest, HostState
from models.job import Attempt, Disk, Job, JobState, Step, StepState, record_event
from models.move_policy import MovePolicy
from models.notice import GuestNotice
from models.roll import HookRun, Roll, RollHost
from models.sample import Sample
from models.storage import Storage, StorageMapping
from models.webhook import Delivery, Notification, Receiver, ReceiverSecret
from workflows.migration import links

pytestmark = pytest.mark.usefixtures("database", "_no_roles")

REVISIONS = [revision.revision for revision in ScriptDirectory.from_config(migrations.config()).walk_revisions()]
NEW = {"drain", "drain_guest", "delivery", "refused_submission", "webhook_receiver", "webhook_secret", "storage"} | {
    *(
        "storage_mapping",
        "roll",
        "roll_host",
        "hook_run",
        "plan_approval",
        "submitted_plan",
        "api_token",
        "budget",
        "controller",
    ),
    *("console_user", "move_policy", "guest_notice", "said", "sample"),
}
"""Tables that earlier revisions do not have."""


@pytest.fixture(scope="module")
def _no_roles(database_lab: Lab) -> None:
    """Policies of roles that tests before have made depend on columns that revisions before do not have."""
    with fleet.pointed_at(database_lab), engine().begin() as connection:
        for group in (purpose.group for purpose in Purpose):
            if connection.scalar(text("SELECT to_regrole(:group)"), {"group": group}) is not None:
                connection.execute(text(f"DROP OWNED BY {group}"))
                connection.execute(text(f"DROP ROLE {group}"))


def _empty() -> None:
    with engine().begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


@pytest.mark.thorough
@pytest.mark.parametrize("revision", [None, *reversed(REVISIONS)])
def test_the_schema_can_be_brought_up_to_date_from_any_revision(revision: str | None) -> None:
    _empty()
    if revision:
        migrations.upgrade(revision)
    migrations.upgrade()
    command.check(migrations.config())


@pytest.mark.parametrize("runs", [["head"], REVISIONS[::-1]], ids=["at once", "each revision by itself"])
def test_the_schema_can_be_brought_up_to_date(runs: list[str]) -> None:
    _empty()
    for revision in runs:
        migrations.upgrade(revision)
    command.check(migrations.config())  # the models ask for nothing more


@pytest.mark.parametrize("hosts", [0, 1])
def test_a_new_fleet_wants_signed_submissions_and_one_that_has_hosts_keeps_what_it_had(hosts: int) -> None:
    _empty()
    migrations.upgrade("0045")
    if hosts:
        with engine().begin() as connection:
            columns = "name, address, guest_root, incarnation, heartbeat_at, facts"
            connection.execute(text(f"INSERT INTO host ({columns}) VALUES ('one', '::1', '/', 'x', now(), '{{}}')"))
    migrations.upgrade()
    with transaction() as session:
        assert limits(session).signed_submissions is not bool(hosts)


def test_the_schema_can_be_taken_back_to_nothing() -> None:
    command.downgrade(migrations.config(), "base")
    migrations.upgrade()


def test_the_schema_can_be_taken_back_step_by_step_with_rows_in_every_table_and_nothing_else_is_lost() -> None:
    _rows_in_every_table()
    kept = [table for table in Base.metadata.sorted_tables if table.name not in NEW]
    before = {table.name: _keys(table) for table in kept}
    assert all(before.values())
    for _ in REVISIONS[:-1]:
        command.downgrade(migrations.config(), "-1")
    migrations.upgrade()
    assert {table.name: _keys(table) for table in kept} == before
    command.check(migrations.config())
    command.downgrade(migrations.config(), "base")
    migrations.upgrade()


def _keys(table: Table) -> set[tuple[Any, ...]]:
    with engine().connect() as connection:
        return {tuple(row) for row in connection.execute(select(*table.primary_key.columns))}


def _rows_in_every_table() -> None:
    """A guest with a job of a drain, and a job whose guest was forgotten since."""
    common = {
        "address": "::1",
        "guest_root": "/",
        "incarnation": "x",
        "heartbeat_at": text("now()"),
        "facts": HostFacts(),
    }
    with transaction() as session:
        session.add_all([Host(name=name, **common) for name in ("one", "two")])
        session.flush()
        session.add_all([Budget(name="uplink", bytes_per_s=1), Controller(looked_at=text("now()"))])
        session.add(Storage(host="one", name="guests", driver="folder", place="/"))
        session.add(
            StorageMapping(host="one", storage="guests", destination="two", destination_storage="guests", format="raw")
        )
        session.add(HostRequest(host="one", kind="inspect", question={}))
        session.add(Guest(name="web", host="one", qmp="/q", process="p", uuid="u"))
        refusal.keep(session, "job", "k", "no")
        session.add(Receiver(name="hooks.example.org", within=["10.0.0.0/8"]))
        session.flush()
        session.add(ReceiverSecret(receiver="hooks.example.org", salt=b"salt", key_id="k"))
        session.add(ApiToken(user="ada", scope=Scope.READ, digest=b"digest"))
        session.add(ConsoleUser(name="ada", scope=Scope.READ))
        session.add(MovePolicy(name="db", priority=1, options=MigrationOptions()))
        drain = Drain(kind=DrainKind.DRAIN, host="one", state=DrainState.RUNNING)
        session.add(drain)
        session.flush()
        asked = GuestNotice(
            drain_id=drain.id, guest="web", source="one", destination="two", notice=Notice(url="http://x")
        )
        session.add(asked)
        for guest in ("web", "forgotten"):
            job = Job(guest=guest, source="one", destination="two", drain_id=drain.id, state=JobState.DONE)
            job.steps = links.steps("one", "two")
            job.disks = [
                Disk(index=0, device="d", format="raw", source_path="/s", destination_path="/d", bytes_total=1)
            ]
            session.add(job)
            session.flush()
            session.add(Attempt(job_id=job.id, token=1, seq=0, direction="do", owner="x"))
            record_event(session, job.id, by="test", action=EventAction.SUBMITTED, sentence="it is to move")
            session.add(Sample(job_id=job.id, of_ram=False, sent_per_s=1, changed_per_s=1))
            session.add(DrainGuest(drain_id=drain.id, guest=guest, position=0, source="one", job_id=job.id))
            session.add(
                Delivery(job_id=job.id, url="http://x", body=Notification(event="job.done", at=datetime.now(UTC)))
            )
        roll = Roll(max_unavailable=1, hook=Hook(argv=("h",)), back_within=timedelta(hours=1))
        roll.hosts = [RollHost(host="one", position=1)]
        session.add(roll)
        session.flush()
        session.add(Budget(name="fleet", bytes_per_s=1))
        session.add(PlanApproval(digest="d", by="alice", at=datetime.now(UTC)))
        session.add(SubmittedPlan(digest="d", document={}, submitted_by="ada", submitted_at=datetime.now(UTC)))
        session.add(HookRun(roll_id=roll.id, host="one"))
    for table in Base.metadata.sorted_tables:
        assert _keys(table), f"{table.name} is empty: add a row above"


def test_every_state_can_be_stored() -> None:
    with transaction() as session:
        for name in ("one", "two"):
            session.add(
                Host(
                    name=name,
                    address="::1",
                    guest_root="/",
                    incarnation="x",
                    heartbeat_at=text("now()"),
                    facts=HostFacts(),
                )
            )
        session.flush()
        for state in JobState:
            session.add(Guest(name=state, host="one", qmp="/q"))
            session.flush()
            session.add(Job(guest=state, source="one", destination="two", state=state))
        job = Job(guest="done", source="one", destination="two", state=JobState.DONE)
        job.steps = links.steps("one", "two")[: len(StepState)]
        for step, step_state in zip(job.steps, StepState, strict=True):
            step.state = step_state
        session.add(job)
    with transaction() as session:
        assert {job.state for job in session.query(Job)} == set(JobState)
        assert {step.state for step in session.query(Step)} == set(StepState)


def test_every_state_of_hosts_and_drains_can_be_stored() -> None:
    common = {
        "address": "::1",
        "guest_root": "/",
        "incarnation": "x",
        "heartbeat_at": text("now()"),
        "facts": HostFacts(),
    }
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
