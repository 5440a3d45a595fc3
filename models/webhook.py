"""Webhooks: messages about the end of a job or a drain. The row is the message and its delivery."""

import enum
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, by_value
from models.contracts import Json, Many, Part, Typed, Versioned
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


class Notification(Versioned):
    """The body of a webhook: what ended, when and how. `delivery`, the message's number, is added when it is sent."""

    event: str
    """`job.` or `drain.` and the state that it ended in."""
    at: Moment
    job: JobEnd | None = None
    """Of a job's end; what is not meant is left out."""
    drain: DrainEnd | None = None

    def json_object(self) -> Json:
        """The JSON that is sent and stored."""
        ended = {"job"} if self.job is not None else {"drain"}
        return self.model_dump(mode="json", include={"version", "event", "at"} | ended)


class DeliveryState(enum.StrEnum):
    """How far the delivery of a message has come."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # the tries are used up; the row has the last error


class Delivery(Base):
    """One message to one address; written in the transaction that ends the job or drain."""

    __tablename__ = "delivery"
    __table_args__ = (Index("ix_delivery_state", "state", "next_at"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    drain_id: Mapped[int | None] = mapped_column(ForeignKey("drain.id", ondelete="CASCADE"))
    url: Mapped[str] = mapped_column(Text)
    body: Mapped[Notification] = mapped_column(Typed(Notification), deferred=True)
    """Validated only when it is sent, so that the row of an unreadable one can still be updated with the error."""
    state: Mapped[DeliveryState] = mapped_column(by_value(DeliveryState), default=DeliveryState.PENDING)
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]
