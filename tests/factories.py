"""Hosts, guests, jobs and limits as rows: enough for whatever decides by rows alone; and settings for it."""

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import func, text, update
from sqlalchemy.orm import Session

import migrations
from drover.settings import Settings, settings
from models.base import Base
from models.database import disconnect, transaction
from models.documents import HostFacts
from models.fleet import FleetLimits, Limits
from models.guest import Guest
from models.host import Host
from models.job import Direction, Disk, Job, JobState, Side, Step, StepState
from models.transitions import JOB, JobEvent
from workflows import receivers
from workflows.migration import claims, links
from workflows.migration.claims import Claim
from workflows.migration.links import StepName

WEBHOOK_KEY = "what the tests make secrets of receivers with"
LOOPBACK = "127.0.0.0/8"

MB, GB = 10**6, 10**9


def ours(**changed: Any) -> Settings:
    """The settings of this process, some of them changed. Nothing is validated."""
    return settings().model_copy(update=changed)


def offline(**changed: Any) -> Settings:
    """Settings of something that talks to neither database nor broker."""
    return Settings(database_url="postgresql+psycopg://x@x/x", broker_url="redis://x").model_copy(update=changed)


def receiver(name: str = LOOPBACK, *, within: Sequence[str] = ()) -> str:
    """Somebody who may be told by webhooks; answers the secret."""
    secret = receivers.allow(name, within, offline(webhook_key=WEBHOOK_KEY)).secret
    assert secret is not None, f"{name} was listed before"
    return secret


def empty_database() -> None:
    """The newest schema, whatever the test before has left, with the default limits of the fleet and no other rows."""
    if _present_schema() != _newest_schema():
        migrations.upgrade()
        disconnect()  # connections have statements prepared for the former one
    deletes = (f"DELETE FROM {table.name}" for table in reversed(Base.metadata.sorted_tables))
    with transaction() as session:
        session.connection().exec_driver_sql("; ".join(deletes))
        session.add(FleetLimits(**Limits().model_dump()))


def _present_schema() -> str | None:
    """As `migrations.present`, at a tenth of its price: it is asked before each test."""
    with transaction() as session:
        known = session.scalar(text("SELECT to_regclass('alembic_version')"))
        return session.scalar(text("SELECT version_num FROM alembic_version")) if known else None


@cache
def _newest_schema() -> str | None:
    return migrations.newest()


def limits(**changed: Any) -> None:
    """Change limits of the fleet."""
    with transaction() as session:
        session.execute(update(FleetLimits).values(**changed))


def host(name: str, **columns: Any) -> None:
    """A host that is alive, with room for 8 CPUs, 8 GB of memory and 100 GB of disk."""
    room = {"guest_cpus": 8, "guest_memory_bytes": 8 * GB, "guest_disk_bytes": 100 * GB}
    common = {
        "address": "127.0.0.1",
        "guest_root": "/",
        "incarnation": "x",
        "facts": HostFacts(),
        "public_key": "a key",
    }
    alive = {"heartbeat_at": func.clock_timestamp()}
    with transaction() as session:
        session.add(Host(name=name, **common | room | alive | columns))


def guest(name: str, on: str, **columns: Any) -> None:
    """A guest of 1 CPU, 1 GB of memory and 10 GB of disk."""
    usual = {"qmp": f"/{name}", "cpus": 1, "memory_bytes": GB, "disk_bytes": 10 * GB}
    with transaction() as session:
        session.add(Guest(name=name, host=on, **usual | columns))


def new_job(session: Session, name: str, to: str, **columns: Any) -> Job:
    """A job that moves a guest, queued unless `state` is given; not sent to the database before more of it is set."""
    source = session.get_one(Guest, name).host
    made = Job(guest=name, source=source, destination=to, **columns)
    made.steps = links.steps(source, to)
    made.disks = [Disk(index=0, device="d", format="raw", source_path="/s", destination_path="/d", bytes_total=10 * GB)]
    if columns.get("state", JobState.QUEUED) is not JobState.QUEUED:
        made.started_at = made.progress_at = func.now()
    session.add(made)
    return made


def job(name: str, to: str, **columns: Any) -> int:
    """Likewise, as a row; returns its number."""
    with transaction() as session:
        made = new_job(session, name, to, **columns)
        session.flush()
        return made.id


def prepared(*jobs: int) -> None:
    """Their images are prepared: what is copied comes next."""
    with transaction() as session:
        done = Step.job_id.in_(jobs), Step.name == StepName.PREPARE_DEST_IMAGE
        session.execute(update(Step).where(*done).values(state=StepState.DONE))


def happens(session: Session, to: Job, *events: JobEvent) -> None:
    """One event after the other, each by somebody who may."""
    for event in events:
        [row] = [row for row in JOB.rows if (row.state, row.event) == (to.state, event)]
        to.apply(session, event, f"it is to {event}", actor=min(row.actors), by="test")


def offline_claim(job: Job, name: str, side: Side, *, lasts_s: float = 3600.0) -> Claim:
    """Of a step that no database knows."""
    return Claim(
        job=job,
        seq=1,
        name=name,
        side=side,
        direction=Direction.DO,
        token=7,
        attempt=1,
        owner="here",
        deadline=time.monotonic() + lasts_s,
    )


def claim(ours: Settings, job_id: int, position: int, direction: Direction = Direction.DO) -> Claim:
    """What a worker wins that takes the job's step with this position in its chain, which is due."""
    with transaction() as session:
        job = session.get_one(Job, job_id)
        step, epoch = job.steps[position], job.epoch
    won = claims.claim(
        job_id=job_id,
        seq=step.seq,
        name=step.name,
        epoch=epoch,
        direction=direction,
        host=step.host,
        owner="x",
        settings=ours,
    )
    assert won is not None
    return won


def load(job_id: int) -> Job:
    """The job as it is now."""
    with transaction() as session:
        found = session.get_one(Job, job_id)
        _ = found.steps, found.disks, found.nbd_server, found.switchover, found.file_copy
    return found
