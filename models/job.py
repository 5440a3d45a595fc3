"""A job moves one guest to another host: its steps, its disks, and the story of what was done.

A job's state changes only through `Job.move`, along `TRANSITIONS`; a step's through `workflows.migration.claims`.
State and step names are stored by value: never rename or reuse one.
"""

import enum
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, String, Text, func, text
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from drover.errors import DroverError
from models.base import Base, Document, by_value, now
from models.webhook import Delivery


class JobState(enum.StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # accepted; nothing was touched yet
    RUNNING = "running"  # its steps are being done
    ROLLING_BACK = "rolling_back"  # its steps are being rolled back, last first; the guest runs at the source
    DONE = "done"  # the guest lives at the destination
    ROLLED_BACK = "rolled_back"  # the guest lives at the source as if nothing had been tried
    NEEDS_OPERATOR = "needs_operator"  # a person must say what is true

    @property
    def ended(self) -> bool:
        """No step of the job will run any more by itself."""
        return self in {JobState.DONE, JobState.ROLLED_BACK, JobState.NEEDS_OPERATOR}


TRANSITIONS: frozenset[tuple[JobState, JobState]] = frozenset(
    {
        (JobState.QUEUED, JobState.RUNNING),  # admitted by the controller
        (JobState.QUEUED, JobState.ROLLED_BACK),  # cancelled or refused before it began
        (JobState.RUNNING, JobState.DONE),  # the last step is done
        (JobState.RUNNING, JobState.ROLLING_BACK),  # a step failed for good, or the job was cancelled
        (JobState.RUNNING, JobState.NEEDS_OPERATOR),  # past the point of no return and stuck
        (JobState.ROLLING_BACK, JobState.ROLLED_BACK),  # the first step is rolled back
        (JobState.ROLLING_BACK, JobState.RUNNING),  # rolling back found that the destination owns the guest already
        (JobState.ROLLING_BACK, JobState.NEEDS_OPERATOR),  # even rolling back failed for good
        (JobState.NEEDS_OPERATOR, JobState.RUNNING),  # the operator lets it go forward
        (JobState.NEEDS_OPERATOR, JobState.ROLLING_BACK),  # the operator lets it go back
    }
)


class IllegalTransition(DroverError):
    """A state change that `TRANSITIONS` does not list: a bug of ours."""


class StepState(enum.StrEnum):
    """Where a step stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  # for good; the job is being rolled back or waits for a person
    TO_ROLL_BACK = "to_roll_back"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


CLAIMED = (StepState.RUNNING, StepState.ROLLING_BACK)
"""While a worker holds a claim on the step, see `workflows.migration.claims`."""


class Direction(enum.StrEnum):
    """Which way a claim takes its step."""

    DO = "do"
    ROLLBACK = "rollback"


class Side(enum.StrEnum):
    """On which of a job's two hosts a step works."""

    SOURCE = "source"
    DESTINATION = "destination"


DOWNTIME_PHASES = (
    "stop",  # QEMU stops the guest and gets to pre-switchover: what is left of its disks' cache and of its RAM
    "mirror_end",  # both sides of all mirrors become equal
    "nbd_close",  # the source lets go of the exports
    "device_state",  # the last RAM and the devices are sent, until the source says `completed`
    "release",  # waiting for the NBD server to let go of the images, as far as it takes longer than that
    "check",  # the destination's QEMU says itself that it is complete
    "marker",  # "may run here" is written and flushed
    "resume",  # `cont` until the guest runs: QEMU takes the images over
    "messages",  # the rest: what was said between the two processes
)
"""The parts of a downtime in their order; they add up to it."""


class Job(Base):
    """One migration somebody asked for."""

    __tablename__ = "job"
    __table_args__ = (
        Index(
            "uq_job_guest_unfinished",
            "guest",
            unique=True,
            postgresql_where=text("state NOT IN ('done', 'rolled_back')"),
        ),
        Index("ix_job_state", "state"),
        Index("ix_job_finished_at", "finished_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    guest: Mapped[str] = mapped_column(String(128))
    """Its name; the job's story outlives a guest that is forgotten."""
    source: Mapped[str] = mapped_column(ForeignKey("host.name"))
    destination: Mapped[str] = mapped_column(ForeignKey("host.name"))
    state: Mapped[JobState] = mapped_column(by_value(JobState), default=JobState.QUEUED)
    epoch: Mapped[int] = mapped_column(default=0)
    """Raised whenever the messages already sent for this job must have no effect any more."""
    token: Mapped[int] = mapped_column(BigInteger, default=0)
    """The newest fencing token given to a claim on one of the job's steps."""
    idempotency_key: Mapped[str | None] = mapped_column(String(128), unique=True)
    options: Mapped[Document] = mapped_column(default=dict)
    """{"max_downtime_ms": int, "bandwidth_bytes_per_s": int}: as asked for."""
    plan: Mapped[Document] = mapped_column(default=dict)
    """What the preflight found out, see `workflows.migration.preflight`: never changed after submission."""
    nbd_server: Mapped[Document] = mapped_column(default=dict)
    """Written by `start_nbd`: {"nonce", "address", "port"} of the present NBD server."""
    switchover: Mapped[Document] = mapped_column(default=dict)
    """Written by `migrate_ram`: {"attempt", "address", "port", "key"} of the present attempt."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    cutover_begun_at: Mapped[datetime | None]
    """Set before the source may pause, cleared when it is certain that the source kept the guest."""
    committed_at: Mapped[datetime | None]
    """The destination may have been told to run: the point of no return."""
    downtime: Mapped[Document | None]
    """{"ms", "phases": {name: ms, see `DOWNTIME_PHASES`}, "stopped_at", "resumed_at": seconds since 1970}.

    Of the switchover that succeeded, by the source's clock; null values where a switchover process died and only the
    outcome is known."""
    ram: Mapped[Document | None]
    """Progress of the RAM: {"transferred", "remaining", "total", "bytes_per_s", "passes"}."""
    kept_by_source: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """The source owns the guest although it was told to let go: the destination is proven, or said, to be dead."""
    fenced: Mapped[str | None] = mapped_column(String(64))
    """The host of which an operator said that it is off for good: it runs nothing and will not come back by itself."""
    drain_id: Mapped[int | None] = mapped_column(ForeignKey("drain.id"))
    """The drain on whose behalf the guest is moved."""
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of the jobs that wait, those of higher priority begin first."""
    not_before: Mapped[datetime | None]
    window: Mapped[Document | None]
    """{"start": "22:00", "end": "04:00", "timezone": "Europe/Berlin"}: it begins only if it can end inside."""
    hold: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """The disks are kept in sync until an operator releases the job; only then the RAM follows."""
    seed: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """Likewise until its window opens; the controller clears it."""
    wait_reason: Mapped[str | None] = mapped_column(Text)
    """Why it does not go on although nothing is wrong: one sentence."""
    webhook: Mapped[str | None] = mapped_column(Text)
    """The address that is told when the job ends."""
    progress_at: Mapped[datetime | None]
    """When last a step was begun or ended, or bytes were seen to move."""
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    steps: Mapped[list["Step"]] = relationship(order_by="Step.seq", back_populates="job")
    disks: Mapped[list["Disk"]] = relationship(order_by="Disk.index", back_populates="job")

    @property
    def held(self) -> bool:
        """Its RAM must not follow yet; the disks are kept in sync meanwhile."""
        return self.hold or self.seed

    @property
    def refused(self) -> bool:
        """It never began: kept only so that whoever submitted it can learn why."""
        return self.state is JobState.ROLLED_BACK and self.started_at is None and self.plan == {}

    def move(self, session: Session, to: JobState, why: str, by: str) -> None:
        """Change the state along `TRANSITIONS` and tell the job's story why. Hold the row's lock.

        Raises:
            IllegalTransition: there is no such way.
        """
        if (self.state, to) not in TRANSITIONS:
            raise IllegalTransition(f"job {self.id} cannot go from {self.state} to {to}")
        self.state, self.wait_reason = to, None
        if to is JobState.RUNNING and self.started_at is None:
            self.started_at = now(session)
        self.finished_at = now(session) if to.ended else None
        if to.ended:
            self.announce(session)
        record_event(session, self.id, by=by, action=to, sentence=why)

    def announce(self, session: Session) -> None:
        """Have whoever asked told what became of the job."""
        if self.webhook is None:
            return
        names = ("id", "guest", "source", "destination", "error", "drain_id", "idempotency_key")
        about = {"state": self.state.value, **{name: getattr(self, name) for name in names}}
        body = {"event": f"job.{self.state}", "at": now(session).isoformat(), "job": about}
        session.add(Delivery(url=self.webhook, job_id=self.id, body=body))


class Step(Base):
    """One link of a job's chain. Columns beside `state` belong to whoever holds the claim."""

    __tablename__ = "step"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(64))
    side: Mapped[Side] = mapped_column(by_value(Side))
    host: Mapped[str] = mapped_column(ForeignKey("host.name"))
    state: Mapped[StepState] = mapped_column(by_value(StepState), default=StepState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    """Times it was begun in the present direction; retries end at the step's limit."""
    token: Mapped[int | None] = mapped_column(BigInteger)
    owner: Mapped[str | None] = mapped_column(String(64))
    """The incarnation of the worker that holds the claim."""
    lease_until: Mapped[datetime | None]
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    enqueued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)

    job: Mapped[Job] = relationship(back_populates="steps")


class Attempt(Base):
    """One try at doing or rolling back a step: the audit trail of claims, never changed after its end."""

    __tablename__ = "attempt"
    __table_args__ = (Index("ix_attempt_job_id", "job_id"), Index("ix_attempt_ended_at", "ended_at"))

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    token: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    seq: Mapped[int]
    direction: Mapped[str] = mapped_column(String(8))
    """`do` or `rollback`."""
    owner: Mapped[str] = mapped_column(String(64))
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(32))
    """done, retry, failed, cancelled, crossed, handed_back, expired; empty while it runs."""
    error: Mapped[str | None] = mapped_column(Text)


class Disk(Base):
    """One disk of the guest that a job moves."""

    __tablename__ = "disk"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    device: Mapped[str] = mapped_column(Text)
    """What QEMU on the source calls it: node name of its root."""
    format: Mapped[str] = mapped_column(String(16))
    source_path: Mapped[str] = mapped_column(Text)
    destination_path: Mapped[str] = mapped_column(Text)
    bytes_total: Mapped[int] = mapped_column(BigInteger)
    """Of the mirror: its length, which grows as the guest writes; at first the virtual size."""
    bytes_copied: Mapped[int] = mapped_column(BigInteger, default=0)
    ready_at: Mapped[datetime | None]
    retired_path: Mapped[str | None] = mapped_column(Text)
    """Where the source's image was set aside after the move."""
    retired_until: Mapped[datetime | None]

    job: Mapped[Job] = relationship(back_populates="disks")


class Event(Base):
    """One sentence of a job's story: what was decided, by whom and why."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_job_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    by: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    sentence: Mapped[str] = mapped_column(Text)
    data: Mapped[Document | None]


def record_event(
    session: Session, job_id: int, *, by: str, action: str, sentence: str, data: dict[str, Any] | None = None
) -> None:
    """Add a sentence to the job's story."""
    session.add(Event(job_id=job_id, by=by, action=action, sentence=sentence, data=data))
