"""Webhooks: messages about the end of a job or a drain, and about each step of a roll. The row is the message and its
delivery.

Messages go to receivers that an operator has listed, each with a secret of its own.
"""

import enum
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, LargeBinary, String, Text, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, by_value
from models.columns import Typed
from models.contracts import Json, Many, Part, Versioned
from models.documents import Moment


class JobEnd(Part):
    """What became of a job."""

    id: int
    guest: str
    source: str
    destination: str
    state: str
    error: str | None = None
    drain_id: int | None = None
    idempotency_key: str | None = None


class GuestEnd(Part):
    """What a drain did about one guest."""

    guest: str
    state: str
    reason: str | None = None


class DrainEnd(Part):
    """What became of a drain."""

    id: int
    kind: str
    host: str
    state: str
    error: str | None = None
    idempotency_key: str | None = None
    guests: Many[GuestEnd] = ()


class RollHostNews(Part):
    """How far a roll has come with one host."""

    host: str
    state: str
    reason: str | None = None
    error: str | None = None


class RollNews(Part):
    """How a roll stands."""

    id: int
    state: str
    error: str | None = None
    host: str | None = None
    """Of which host the event tells; None: of the roll itself."""
    hosts: Many[RollHostNews] = ()
    """In their turn."""


class Notification(Versioned):
    """The body of a webhook: what happened, and when. `delivery`, the message's number, is added when it is sent."""

    event: str
    """`job.` or `drain.` and the state that it ended in; `roll.` or `roll.host.` and the state that it came into."""
    at: Moment
    job: JobEnd | None = None
    """Of a job's end; what is not meant is left out."""
    drain: DrainEnd | None = None
    roll: RollNews | None = None

    def json_object(self) -> Json:
        """The JSON that is sent and stored."""
        about = next((name for name in ("job", "drain", "roll") if getattr(self, name) is not None), "drain")
        return self.model_dump(mode="json", include={"version", "event", "at", about})


class DeliveryState(enum.StrEnum):
    """How far the delivery of a message has come."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # the tries are used up; the row has the last error


class Delivery(Base):
    """One message to one address; written in the transaction that ends the job or drain, or carries the roll on."""

    __tablename__ = "delivery"
    __table_args__ = (Index("ix_delivery_state", "state", "next_at"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    drain_id: Mapped[int | None] = mapped_column(ForeignKey("drain.id", ondelete="CASCADE"))
    roll_id: Mapped[int | None] = mapped_column(ForeignKey("roll.id", ondelete="CASCADE"))
    url: Mapped[str] = mapped_column(Text)
    body: Mapped[Notification] = mapped_column(Typed(Notification), deferred=True)
    """Validated only when it is sent, so that the row of an unreadable one can still be updated with the error."""
    state: Mapped[DeliveryState] = mapped_column(by_value(DeliveryState), default=DeliveryState.PENDING)
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]


class Receiver(Base):
    """Who may be told: a host by its name, or all of a network."""

    __tablename__ = "webhook_receiver"

    name: Mapped[str] = mapped_column(String(253), primary_key=True)
    """`hooks.example.org`, or `10.0.0.0/8`."""
    within: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """Networks in which it may be; a host may also have a public address."""
    allowed_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    secrets: Mapped[list["ReceiverSecret"]] = relationship(
        order_by="ReceiverSecret.id.desc()", cascade="all, delete-orphan", passive_deletes=True, lazy="immediate"
    )
    """Newest first."""


class ReceiverSecret(Base):
    """What one secret of a receiver is made from, beside a key that only the control nodes have: no secret itself."""

    __tablename__ = "webhook_secret"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    receiver: Mapped[str] = mapped_column(ForeignKey("webhook_receiver.name", ondelete="CASCADE"), index=True)
    salt: Mapped[bytes] = mapped_column(LargeBinary)
    key_id: Mapped[str] = mapped_column(String(16))
    """Which key."""
    made_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    ends_at: Mapped[datetime | None]
    """Until then messages are signed with it; None: until it is rotated."""
