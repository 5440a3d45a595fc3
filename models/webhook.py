"""Webhooks: telling whoever asked for a job or a drain what became of it. The row is the message and its delivery."""

import enum
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Document, by_value


class DeliveryState(enum.StrEnum):
    """How far a message has come."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # it was tried often enough; the row says what went wrong last


class Delivery(Base):
    """One message to one address; written in the transaction that it tells of."""

    __tablename__ = "delivery"
    __table_args__ = (Index("ix_delivery_state", "state", "next_at"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    drain_id: Mapped[int | None] = mapped_column(ForeignKey("drain.id", ondelete="CASCADE"))
    url: Mapped[str] = mapped_column(Text)
    body: Mapped[Document]
    state: Mapped[DeliveryState] = mapped_column(by_value(DeliveryState), default=DeliveryState.PENDING)
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]
