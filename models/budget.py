"""Budgets that several moves share: of a link between hosts, of a group of hosts, of the whole fleet."""

from typing import Annotated

from sqlalchemy import BigInteger, CheckConstraint, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.columns import Typed
from models.contracts import Many, Part, Versioned, nested
from models.documents import Window


class Hours(Part):
    """Hours of every day with a rate of their own."""

    window: Annotated[Window, nested(Window)]
    bytes_per_s: int
    """0: no limit then."""


class BandwidthHours(Versioned):
    """A rate by the time of day; the first that is open counts, outside of all the rate beside it."""

    hours: Many[Hours] = ()


class Budget(Base):
    """What all moves from some hosts to some hosts may send together, disks and RAM."""

    __tablename__ = "budget"
    __table_args__ = (CheckConstraint("bytes_per_s >= 0", name="no_negative_amounts"),)

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    source: Mapped[str | None] = mapped_column(Text)
    """A selector of the hosts that they leave, see `workflows.selectors`; null: all. Likewise the next."""
    destination: Mapped[str | None] = mapped_column(Text)
    bytes_per_s: Mapped[int] = mapped_column(BigInteger)
    """0: no limit."""
    hours: Mapped[BandwidthHours | None] = mapped_column(Typed(BandwidthHours))
