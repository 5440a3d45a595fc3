"""A drain empties one host; a return brings the guests of a drain home again. Both are a list of guests to move.

The moves themselves are jobs. What a drain wants of each guest, and what became of it, is a `DrainGuest`; nothing
of a drain is held in memory, so any process may carry it on.
"""

import enum
from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Identity, Index, String, Text, false, func, text
from sqlalchemy.orm import Mapped, Session, mapped_column, object_session, relationship

from models import decision_log
from models.base import Base, Document, by_value, now
from models.columns import Typed
from models.documents import AllowedHosts, MigrationOptions, PlannedGuest, Recurrence, Window
from models.transitions import DRAIN, DRAIN_GUEST
from models.transitions import DrainState as DrainState
from models.transitions import GuestState as GuestState
from models.webhook import Delivery, DrainEnd, GuestEnd, Notification


class DrainKind(enum.StrEnum):
    """Which way the guests go."""

    DRAIN = "drain"  # away from the host
    RETURN = "return"  # home to it


UNDER_WAY = (DrainState.RUNNING, DrainState.PAUSED, DrainState.CANCELLING)
"""States in which no other drain of this host may run."""


class Drain(Base):
    """A request to empty a host, or to bring its guests home."""

    __tablename__ = "drain"
    __table_args__ = (
        Index(
            "uq_drain_host_under_way",
            "host",
            unique=True,
            postgresql_where=text("state IN ('running', 'paused', 'cancelling')"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[DrainKind] = mapped_column(by_value(DrainKind))
    host: Mapped[str] = mapped_column(ForeignKey("host.name"))
    state: Mapped[DrainState] = mapped_column(by_value(DrainState), default=DrainState.QUEUED)
    idempotency_key: Mapped[str | None] = mapped_column(String(128), unique=True)
    submitted_by: Mapped[str | None] = mapped_column(String(64))
    """As events name them; null: by an earlier version, or refused."""
    submitted_with: Mapped[int | None] = mapped_column(BigInteger)
    """See `Job.submitted_with`; whoever resumes it lends theirs."""
    allowed_hosts: Mapped[AllowedHosts] = mapped_column(Typed(AllowedHosts), default=AllowedHosts)
    selector: Mapped[str | None] = mapped_column(Text)
    """Only guests that it selects by their labels are moved, see `workflows.selectors`; null: all."""
    options: Mapped[MigrationOptions] = mapped_column(Typed(MigrationOptions), default=MigrationOptions)
    """Of its jobs, see `Job.options`."""
    priority: Mapped[int] = mapped_column(default=0)
    """Of its jobs, see `Job.priority`."""
    not_before: Mapped[datetime | None]
    window: Mapped[Window | None] = mapped_column(Typed(Window))
    """See `Job.window`; holds for each of its jobs."""
    recurrence: Mapped[Recurrence | None] = mapped_column(Typed(Recurrence))
    """When it ends, the next one is queued for then."""
    hold: Mapped[bool] = mapped_column(default=False)
    """See `Job.hold`."""
    seed: Mapped[bool] = mapped_column(default=False)
    """See `Job.seed`."""
    follows_plan: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It was applied from a plan: no guest without a row is moved, none is sent elsewhere than its row says."""
    webhook: Mapped[str | None] = mapped_column(Text)
    """The address that gets a webhook when the drain ends."""
    wait_reason: Mapped[str | None] = mapped_column(Text)
    """Why it does not go on although nothing is wrong: one sentence."""
    error: Mapped[str | None] = mapped_column(Text)
    """What is left and why, in one sentence."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    guests: Mapped[list["DrainGuest"]] = relationship(order_by="DrainGuest.position", back_populates="drain")

    @property
    def refused(self) -> bool:
        """It never began. It is kept so that its submitter can read why."""
        return self.state is DrainState.CANCELLED and self.started_at is None and self.error is not None

    def move(self, session: Session, to: DrainState) -> None:
        """Change the state by the table of drains; if it has ended, queue its webhook. The caller holds the row's lock.

        Raises:
            IllegalTransition: the table has no such transition.
        """
        self.state, self.wait_reason = DRAIN.apply(self.state, to), None
        self.started_at = self.started_at or (now(session) if to is DrainState.RUNNING else None)
        self.finished_at = now(session) if to.ended else None
        why = f": {self.error}" if to.ended and self.error else ""
        decision_log.add(session, f"the {self.kind} of {self.host} is {to} now{why}", drain=self.id)
        if to.ended:
            self.announce(session)

    def announce(self, session: Session) -> None:
        """Queue the webhook about the drain's end, if one was asked for."""
        if self.webhook is None:
            return
        about = DrainEnd(
            id=self.id,
            kind=self.kind,
            host=self.host,
            state=self.state,
            error=self.error,
            idempotency_key=self.idempotency_key,
            guests=tuple(GuestEnd(guest=row.guest, state=row.state, reason=row.reason) for row in self.guests),
        )
        body = Notification(event=f"drain.{self.state}", at=now(session), drain=about)
        session.add(Delivery(url=self.webhook, drain_id=self.id, body=body))


class DrainGuest(Base):
    """One guest of a drain. `position` is its turn."""

    __tablename__ = "drain_guest"

    drain_id: Mapped[int] = mapped_column(ForeignKey("drain.id", ondelete="CASCADE"), primary_key=True)
    guest: Mapped[str] = mapped_column(String(128), primary_key=True)
    position: Mapped[int]
    state: Mapped[GuestState] = mapped_column(by_value(GuestState), default=GuestState.WAITING)
    source: Mapped[str] = mapped_column(ForeignKey("host.name"))
    """Where it was when the drain took it up."""
    destination: Mapped[str | None] = mapped_column(ForeignKey("host.name"))
    """Where it is planned to go, or went."""
    refused_by: Mapped[dict[str, str]] = mapped_column(default=dict)
    """{host: why}: destinations that refused the guest or to which its move failed."""
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"))
    """Its newest job."""
    planned: Mapped[PlannedGuest | None] = mapped_column(Typed(PlannedGuest))
    """What the plan says of it; null: the drain follows none, or it was left by the plan."""
    asked_at: Mapped[datetime | None]
    """When the task that submits its job was last sent; a lost message is sent again."""
    estimate_s: Mapped[float | None]
    """How long its move takes, in seconds, by what earlier moves took."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it waits or is left."""

    drain: Mapped[Drain] = relationship(back_populates="guests")

    def move(self, to: GuestState, reason: str | None = None) -> None:
        """Change the state by the table of a drain's guests. Hold the drain's lock.

        Raises:
            IllegalTransition: the table has no such transition.
        """
        self.state = DRAIN_GUEST.apply(self.state, to)
        self.reason, self.asked_at = reason, None
        if (session := object_session(self)) is not None:
            sentence = f"{self.guest} is {to} now{f': {reason}' if reason else ''}"
            decision_log.add(session, sentence, drain=self.drain_id, guest=self.guest, job=self.job_id)


class PlanApproval(Base):
    """Somebody has approved a plan, see `workflows.drain.plans`. An edited plan has another digest."""

    __tablename__ = "plan_approval"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    by: Mapped[str] = mapped_column(String(128), primary_key=True)
    at: Mapped[datetime]


class SubmittedPlan(Base):
    """A plan that stands in the database: others approve it, and somebody applies it, see `workflows.drain.plans`."""

    __tablename__ = "submitted_plan"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    document: Mapped[Document] = mapped_column(JSON)
    """The plan. As text, for its digest is of each number as it was written."""
    submitted_by: Mapped[str] = mapped_column(String(128))
    submitted_at: Mapped[datetime]
    withdrawn_by: Mapped[str | None] = mapped_column(String(128))
    applied_by: Mapped[str | None] = mapped_column(String(128))
    drain_id: Mapped[int | None] = mapped_column(ForeignKey("drain.id", ondelete="CASCADE"), index=True)
    """The drain that follows it."""
