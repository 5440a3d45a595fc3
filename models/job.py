"""A job moves one guest to another host: its steps, its disks, and events about what was done.

The state of a job or step changes only through `apply`, along the tables of `models.transitions`, or by the statements
of a claim, which take theirs from there. Names of steps are stored by value: never rename or reuse one.
"""

import enum
import logging
from datetime import datetime

from sqlalchemy import BigInteger, ColumnElement, ForeignKey, Identity, Index, String, Text, func, text
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship
from sqlalchemy.orm.util import identity_key

from drover import logs
from models import decision_log, transitions
from models.base import Base, Document, by_value, now
from models.columns import Typed, nothing
from models.documents import (
    Downtime,
    Estimate,
    FileCopy,
    Health,
    MigrationOptions,
    NbdServer,
    Pace,
    Proof,
    RamProgress,
    Switchover,
    Window,
)
from models.event_action import EventAction
from models.plan import Plan
from models.transitions import CLAIMED as CLAIMED
from models.transitions import FINISHED, WAYS, Actor, JobEvent, StepEvent
from models.transitions import Direction as Direction
from models.transitions import JobState as JobState
from models.transitions import StepState as StepState
from models.webhook import Delivery, JobEnd, Notification


class Side(enum.StrEnum):
    """On which of a job's two hosts a step works."""

    SOURCE = "source"
    DESTINATION = "destination"


DOWNTIME_PHASES = (
    "stop",  # QEMU stops the guest and gets to pre-switchover: the rest of its disks' cache and of its RAM
    "mirror_end",  # both sides of all mirrors become equal
    "nbd_close",  # the source disconnects from the exports
    "device_state",  # the last RAM and the devices are sent, until the source reports `completed`
    "release",  # waiting for the NBD server to close the images, as far as it takes longer than that
    "check",  # the destination's QEMU confirms that it has all of the guest
    "marker",  # "may run here" is written and flushed
    "resume",  # `cont` until the guest runs: QEMU takes the images over
    "messages",  # the rest: messages between the two processes
)
"""The parts of a downtime in their order; they add up to it."""


OF_STEPS = "of steps"
"""Columns of a job that its steps alone read, and hosts write: what nobody can read there must not keep others from
reading the row, so they are loaded for a step's worker alone."""


class Job(Base):
    """One migration somebody asked for."""

    __tablename__ = "job"
    __table_args__ = (
        Index(
            "uq_job_guest_unfinished",
            "guest",
            unique=True,
            postgresql_where=text(f"state NOT IN ({', '.join(repr(state.value) for state in FINISHED)})"),
        ),
        Index("ix_job_state", "state"),
        Index("ix_job_finished_at", "finished_at"),
        Index("ix_job_way_back_needed", "guest", postgresql_where=text("way_back_needed")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    guest: Mapped[str] = mapped_column(String(128))
    """Its name; the job's record outlives that of the guest."""
    source: Mapped[str] = mapped_column(ForeignKey("host.name"))
    destination: Mapped[str] = mapped_column(ForeignKey("host.name"))
    state: Mapped[JobState] = mapped_column(by_value(JobState), default=JobState.QUEUED)
    epoch: Mapped[int] = mapped_column(default=0)
    """Raised whenever the messages already sent for this job must have no effect any more."""
    token: Mapped[int] = mapped_column(BigInteger, default=0)
    """The newest fencing token given to a claim on one of the job's steps."""
    idempotency_key: Mapped[str | None] = mapped_column(String(128), unique=True)
    options: Mapped[MigrationOptions] = mapped_column(Typed(MigrationOptions), default=MigrationOptions)
    """As asked for."""
    plan: Mapped[Plan | None] = mapped_column(Typed(Plan, empty=True), nullable=False, default=nothing)
    """What was found out before; None of a job that was refused. Never changed after the submission."""
    nbd_server: Mapped[NbdServer | None] = mapped_column(
        Typed(NbdServer, empty=True), nullable=False, default=nothing, deferred_group=OF_STEPS
    )
    """None before there is one, and once the job has ended."""
    switchover: Mapped[Switchover | None] = mapped_column(
        Typed(Switchover, empty=True), nullable=False, default=nothing, deferred_group=OF_STEPS
    )
    """None while no attempt is under way."""
    file_copy: Mapped[FileCopy | None] = mapped_column(Typed(FileCopy), deferred_group=OF_STEPS)
    """None where nothing had to be copied but disks and RAM."""
    health: Mapped[Health | None] = mapped_column(Typed(Health, otherwise=nothing))
    """Of its guest after the switchover; None before."""
    proof: Mapped[Proof | None] = mapped_column(Typed(Proof, otherwise=nothing))
    """None before its images are compared, or where that was not asked for."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    cutover_begun_at: Mapped[datetime | None]
    """Set before the source may pause, cleared when it is certain that the source kept the guest."""
    committed_at: Mapped[datetime | None]
    """The destination may have been told to run: the point of no return."""
    downtime: Mapped[Downtime | None] = mapped_column(Typed(Downtime, otherwise=nothing))
    """Of the switchover that succeeded."""
    ram: Mapped[RamProgress | None] = mapped_column(Typed(RamProgress, otherwise=nothing))
    estimate: Mapped[Estimate | None] = mapped_column(Typed(Estimate))
    """As it was submitted; None of a job of Drover 0.1, or one that was refused."""
    pace: Mapped[Pace | None] = mapped_column(Typed(Pace, otherwise=nothing))
    """Of its disks; None before the copy."""
    kept_by_source: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """The source owns the guest although it was handed over: the destination is dead, as proven or stated."""
    fenced: Mapped[str | None] = mapped_column(String(64))
    """The host that an operator declared off for good: it runs nothing and will not come back by itself."""
    submitted_with: Mapped[int | None] = mapped_column(BigInteger)
    """The number of the token; null: nobody has shown one, or it was replaced. What it permits counts until the job
    begins."""
    drain_id: Mapped[int | None] = mapped_column(ForeignKey("drain.id"))
    """The drain on whose behalf the guest is moved."""
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of the jobs that wait, those of higher priority begin first."""
    not_before: Mapped[datetime | None]
    window: Mapped[Window | None] = mapped_column(Typed(Window))
    """It begins only if it can end inside."""
    hold: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """The disks are kept in sync until an operator releases the job; only then the RAM follows."""
    seed: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """Likewise until its window opens; the controller clears it."""
    way_back_needed: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """The guest's check failed after this move: its former images stay until it has moved again."""
    wait_reason: Mapped[str | None] = mapped_column(Text)
    """Why it does not go on although nothing is wrong: one sentence."""
    webhook: Mapped[str | None] = mapped_column(Text)
    """The address that gets a webhook when the job ends."""
    traceparent: Mapped[str | None] = mapped_column(String(64))
    """Span of its submission, as W3C writes it: parent of its steps' spans. None where traces are not configured."""
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
        """It never began. It is kept so that its submitter can read why."""
        return self.state is JobState.ROLLED_BACK and self.started_at is None and self.plan is None

    @property
    def direction(self) -> Direction | None:
        """Which way its steps are taken now; None for a job that does not go on by itself."""
        return next((direction for direction, way in WAYS.items() if way.job is self.state), None)

    @property
    def remaining(self) -> list["Step"]:
        """The steps that are left to be taken in this direction, in their order. No I/O."""
        if self.direction is None:
            return []
        way = WAYS[self.direction]
        left = [step for step in self.steps if step.state in way.left]
        return left[::-1] if way.backwards else left

    @property
    def idle(self) -> bool:
        """No worker holds a claim on one of its steps."""
        return not any(step.state in CLAIMED for step in self.steps)

    @property
    def next_step(self) -> "Step | None":
        """The step to be claimed next, or none: one is claimed, or nothing is left. No I/O."""
        first = next(iter(self.remaining), None)
        due = first is not None and self.direction is not None and first.state is WAYS[self.direction].due
        return first if due and self.idle else None

    def apply(self, session: Session, event: JobEvent, why: str, *, actor: Actor, by: str) -> None:
        """Change the state by the table of jobs and record why. Hold the row's lock.

        Raises:
            IllegalTransition: the table has no such row, or not for this actor.
        """
        self.state = transitions.JOB.apply(self.state, event, actor)
        self.wait_reason = None
        if self.state is JobState.RUNNING and self.started_at is None:
            self.started_at = now(session)
        self.finished_at = now(session) if self.state.settled else None
        if self.state.finished:
            self.nbd_server = None  # what was sealed is of no use any more
        if self.state.settled:
            self.announce(session)
        record_event(session, self.id, by=by, action=self.state, sentence=why)

    def announce(self, session: Session) -> None:
        """Queue the webhook about the job's end, if one was asked for."""
        if self.webhook is None:
            return
        names = ("id", "guest", "source", "destination", "error", "drain_id", "idempotency_key")
        about = JobEnd(state=self.state, **{name: getattr(self, name) for name in names})
        body = Notification(event=f"job.{self.state}", at=now(session), job=about)
        session.add(Delivery(url=self.webhook, job_id=self.id, body=body))


class Step(Base):
    """One link of a job's chain. Columns other than `state` are written only by the holder of the claim."""

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

    def apply(self, event: StepEvent, actor: Actor) -> None:
        """Change the state by the table of steps; what was sent for the former state no longer counts.

        A step that is to be done anew or rolled back has all its attempts again. Hold the job's lock.

        Raises:
            IllegalTransition: the table has no such row, or not for this actor.
        """
        self.state = transitions.STEP.apply(self.state, event, actor)
        self.enqueued_at = None
        if event in {StepEvent.ROLL_BACK, StepEvent.REDO}:
            self.attempts, self.next_at = 0, func.clock_timestamp()


class Outcome(enum.StrEnum):
    """How an attempt at a step ended."""

    DONE = "done"
    RETRY = "retry"  # another attempt at the same step follows
    BEGUN_ANEW = "begun anew"  # another attempt at an earlier step follows
    FAILED = "failed"
    CANCELLED = "cancelled"
    COMMITTED = "committed"  # rolling back came too late: the destination owns the guest
    HANDED_BACK = "handed back"  # its worker was told to stop
    EXPIRED = "expired"  # its lease ran out, or its worker started anew
    LEASE_LOST = "lease lost"  # in logs alone: somebody else has written how it ended
    NOT_RECORDED = "not recorded"  # in logs alone: Postgres was away


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
    """An `Outcome`; empty while it runs. Versions before 0.2 wrote some in other words."""
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
    """Since the copy began, what the guest wrote meanwhile included: it may exceed the size of the disk."""
    bytes_first: Mapped[int | None] = mapped_column(BigInteger)
    """How long the mirror was when this copy of the disk began; None before it, or of a job of Drover 0.1."""
    delta_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What the guest had written since it left the image that this copy began with; None: that was empty."""
    ready_at: Mapped[datetime | None]
    retired_path: Mapped[str | None] = mapped_column(Text)
    """Where the source's image was set aside after the move, or the copy of one that was rolled back."""
    retired_until: Mapped[datetime | None]
    retired_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What it takes there; null: it was not looked at."""

    job: Mapped[Job] = relationship(back_populates="disks")

    @property
    def bytes_left(self) -> int:
        """What is not equal on both sides now. No I/O."""
        return max(self.bytes_total - self.bytes_copied, 0)

    @property
    def bytes_rewritten(self) -> int:
        """What the guest wrote anew where it had been copied before. No I/O."""
        return max(self.bytes_total - (self.bytes_first or self.bytes_total), 0)

    @property
    def bytes_done(self) -> int:
        """What is equal on both sides now, of `bytes_size`. No I/O."""
        return max(self.bytes_size - self.bytes_left, 0)

    @property
    def bytes_size(self) -> int:
        """What there is to copy, each byte counted once. No I/O."""
        return self.bytes_total - self.bytes_rewritten


class Event(Base):
    """One event of a job: what was decided, by whom and why, in one sentence."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_job_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    by: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    sentence: Mapped[str] = mapped_column(Text)
    data: Mapped[Document | None]
    """Never written. Workers of earlier versions name it when they insert an event."""


def unfinished() -> ColumnElement[bool]:
    """Of jobs that may still move their guest, or wait for an operator."""
    return Job.state.not_in(FINISHED)


def record_event(session: Session, job_id: int, *, by: str, action: EventAction | JobState, sentence: str) -> None:
    """Add an event to the job, and a line to the log."""
    session.add(Event(job_id=job_id, by=by, action=action, sentence=sentence))
    job = session.identity_map.get(identity_key(Job, job_id))  # no query: the caller has loaded it
    about = {"guest": job.guest, "drain": job.drain_id, **logs.trace_of(job.traceparent)} if job is not None else {}
    serious = action in {JobState.NEEDS_OPERATOR, EventAction.WARNING}
    level = logging.WARNING if serious else logging.INFO
    decision_log.add(session, sentence, level=level, job=job_id, action=str(action), by=by, **about)
