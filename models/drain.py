"""A drain empties one host; a return brings the guests of a drain home again. Both are a list of guests to move.

The moves themselves are jobs. What a drain wants of each guest, and what became of it, is a `DrainGuest`; nothing
of a drain is held in memory, so any process may carry it on.
"""

import enum
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, String, Text, func, text
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from models.base import Base, Document, by_value, now
from models.job import IllegalTransition
from models.webhook import Delivery


class DrainKind(enum.StrEnum):
    """Which way the guests go."""

    DRAIN = "drain"  # away from the host
    RETURN = "return"  # home to it


class DrainState(enum.StrEnum):
    """Where a drain stands."""

    QUEUED = "queued"  # its time has not come
    RUNNING = "running"
    PAUSED = "paused"  # moves under way go on, no other begins
    CANCELLING = "cancelling"  # moves under way are being rolled back
    DONE = "done"  # the host is empty; or all guests are home
    INCOMPLETE = "incomplete"  # what is left says why
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """It does nothing more by itself."""
        return self in {DrainState.DONE, DrainState.INCOMPLETE, DrainState.CANCELLED}


UNDER_WAY = (DrainState.RUNNING, DrainState.PAUSED, DrainState.CANCELLING)
"""States in which a drain has its host to itself."""

DRAIN_TRANSITIONS: frozenset[tuple[DrainState, DrainState]] = frozenset(
    {
        (DrainState.QUEUED, DrainState.RUNNING),  # its time has come; the host is cordoned, or uncordoned
        (DrainState.QUEUED, DrainState.CANCELLED),  # before anything was touched
        (DrainState.RUNNING, DrainState.PAUSED),  # an operator's wish
        (DrainState.PAUSED, DrainState.RUNNING),  # likewise
        (DrainState.RUNNING, DrainState.CANCELLING),  # likewise
        (DrainState.PAUSED, DrainState.CANCELLING),  # likewise
        (DrainState.CANCELLING, DrainState.CANCELLED),  # the last of its moves has ended
        (DrainState.RUNNING, DrainState.DONE),  # every guest has moved
        (DrainState.RUNNING, DrainState.INCOMPLETE),  # nothing is under way, and some guests are left
        (DrainState.INCOMPLETE, DrainState.RUNNING),  # an operator has it try those again
    }
)


class GuestState(enum.StrEnum):
    """What a drain has done about a guest."""

    WAITING = "waiting"  # its turn will come
    MOVING = "moving"  # its job is under way
    MOVED = "moved"
    SKIPPED = "skipped"  # it runs where it was; the reason says why


GUEST_TRANSITIONS: frozenset[tuple[GuestState, GuestState]] = frozenset(
    {
        (GuestState.WAITING, GuestState.MOVING),  # its job was submitted
        (GuestState.WAITING, GuestState.MOVED),  # somebody else moved it
        (GuestState.WAITING, GuestState.SKIPPED),  # no host takes it, or the drain was cancelled
        (GuestState.MOVING, GuestState.MOVED),  # its job is done
        (GuestState.MOVING, GuestState.WAITING),  # its job was rolled back: another destination is looked for
        (GuestState.MOVING, GuestState.SKIPPED),  # its job was cancelled or needs an operator
        (GuestState.SKIPPED, GuestState.WAITING),  # the drain is resumed
        (GuestState.SKIPPED, GuestState.MOVED),  # somebody else moved it
    }
)


class Drain(Base):
    """The wish to have a host emptied, or filled again."""

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
    allowed_hosts: Mapped[Document] = mapped_column(default=dict)
    """{"to": [hosts], "exclude": [hosts]}: where guests may go; no "to" is everywhere."""
    options: Mapped[Document] = mapped_column(default=dict)
    """Of its jobs, see `Job.options`."""
    priority: Mapped[int] = mapped_column(default=0)
    """Of its jobs, see `Job.priority`."""
    not_before: Mapped[datetime | None]
    window: Mapped[Document | None]
    """See `Job.window`; holds for each of its jobs."""
    recurrence: Mapped[Document | None]
    """{"cron": "0 22 * * 6", "timezone": "Europe/Berlin"}: when it ends, the next one is queued for then."""
    hold: Mapped[bool] = mapped_column(default=False)
    """See `Job.hold`."""
    seed: Mapped[bool] = mapped_column(default=False)
    """See `Job.seed`."""
    webhook: Mapped[str | None] = mapped_column(Text)
    """The address that is told when the drain ends."""
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
        """It never began: kept only so that whoever submitted it can learn why."""
        return self.state is DrainState.CANCELLED and self.started_at is None and self.error is not None

    def move(self, session: Session, to: DrainState) -> None:
        """Change the state along `DRAIN_TRANSITIONS`, and tell whoever asked if it has ended. Hold the row's lock.

        Raises:
            IllegalTransition: there is no such way.
        """
        if (self.state, to) not in DRAIN_TRANSITIONS:
            raise IllegalTransition(f"drain {self.id} cannot go from {self.state} to {to}")
        self.state, self.wait_reason = to, None
        self.started_at = self.started_at or (now(session) if to is DrainState.RUNNING else None)
        self.finished_at = now(session) if to.ended else None
        if to.ended:
            self.announce(session)

    def announce(self, session: Session) -> None:
        """Have whoever asked told what became of the drain."""
        if self.webhook is None:
            return
        about = {
            "id": self.id,
            "kind": self.kind.value,
            "host": self.host,
            "state": self.state.value,
            "error": self.error,
            "idempotency_key": self.idempotency_key,
            "guests": [{"guest": row.guest, "state": row.state.value, "reason": row.reason} for row in self.guests],
        }
        body = {"event": f"drain.{self.state}", "at": now(session).isoformat(), "drain": about}
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
    refused_by: Mapped[Document] = mapped_column(default=dict)
    """{host: why}: destinations that did not work out."""
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"))
    """Its newest job."""
    asked_at: Mapped[datetime | None]
    """When the submission of its job was sent for; a message that is lost is sent again."""
    estimate_s: Mapped[float | None]
    """How long its move takes, in seconds, by what earlier moves took."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it waits or is left."""

    drain: Mapped[Drain] = relationship(back_populates="guests")

    def move(self, to: GuestState, reason: str | None = None) -> None:
        """Change the state along `GUEST_TRANSITIONS`. Hold the drain's lock.

        Raises:
            IllegalTransition: there is no such way.
        """
        if (self.state, to) not in GUEST_TRANSITIONS:
            raise IllegalTransition(f"{self.guest} of drain {self.drain_id} cannot go from {self.state} to {to}")
        self.state, self.reason, self.asked_at = to, reason, None
