"""How fast a job's disks and RAM were copied, and how fast its guest changed them meanwhile, over its time."""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, ForeignKey, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

MOST = 300
"""Of a job's disks, and as many of its RAM: then the one that is nearest to the one before it is written over."""
EVERY = timedelta(seconds=2)
"""Not more often; at first with each record of progress, after a long time only once in each `MOST`th part of it."""
AT_FIRST = 10
"""While `EVERY` is more than this part of what has passed."""


class Rates(NamedTuple):
    """What is known when progress is recorded, in bytes per second."""

    of_ram: bool
    sent_per_s: float
    changed_per_s: float


class Sample(Base):
    """Rates of a job at one moment, of its RAM or of all its disks. The worker of its source writes it."""

    __tablename__ = "sample"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    of_ram: Mapped[bool] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True, server_default=func.clock_timestamp())
    sent_per_s: Mapped[int] = mapped_column(BigInteger)
    changed_per_s: Mapped[int] = mapped_column(BigInteger)
    """What the guest wrote anew where it had been copied before; of RAM what it changed, by QEMU's count."""
