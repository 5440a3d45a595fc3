"""Where images of guests lie on hosts, what room is left there, and how far it is over-committed."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import PurePath

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

GUESTS = "guests"
"""The storage of every host that holds its guest root."""
FILESYSTEM = "filesystem"
"""The driver of a storage that only is there: images lie on it, but none is made there by its name."""
THIN_FACTOR = 20.0
"""Of a storage that an operator has set to nothing else."""
MOST_THIN_FACTOR = 1000.0
LOW_SHARE, LOW_LEAST_BYTES, LOW_MOST_BYTES = 0.1, 256 * 10**6, 16 * 10**9
"""A storage is low once a tenth of it is free, at the least and at the most so many bytes."""


class Storage(Base):
    """A file system, volume group or the like of one host. Its worker reports it; an operator sets its factor."""

    __tablename__ = "storage"
    __table_args__ = (CheckConstraint(f"thin_factor BETWEEN 1 AND {MOST_THIN_FACTOR:g}", name="thin_factor"),)

    host: Mapped[str] = mapped_column(ForeignKey("host.name", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    driver: Mapped[str] = mapped_column(String(32))
    """What makes images and volumes there, see `workers.storage`."""
    place: Mapped[str] = mapped_column(Text)
    """Its folder, or what its driver calls it."""
    total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """As last reported; null where its driver does not know. Likewise the next."""
    free_bytes: Mapped[int | None] = mapped_column(BigInteger)
    seen_at: Mapped[datetime | None]
    thin_factor: Mapped[float] = mapped_column(default=THIN_FACTOR, server_default=f"{THIN_FACTOR:g}")
    """What disks have not written yet counts with this part of it; 1: a disk counts with its virtual size."""

    @property
    def low(self) -> bool:
        """It will be full soon."""
        return is_low(self.total_bytes, self.free_bytes)


def is_low(total_bytes: int | None, free_bytes: int | None) -> bool:
    """Whether so much free room is too little to go on without a look at it; not where it is not known."""
    if total_bytes is None or free_bytes is None:
        return False
    wanted = min(max(LOW_SHARE * total_bytes, LOW_LEAST_BYTES), LOW_MOST_BYTES)
    return free_bytes < min(wanted, total_bytes / 2)


def holding(storages: Iterable[Storage], path: str) -> Storage | None:
    """The storage that a path of its host lies in: of several the innermost one."""
    inside = [row for row in storages if PurePath(path).is_relative_to(row.place)]
    return max(inside, key=lambda row: len(row.place), default=None)


def counted_bytes(virtual_bytes: int, allocated_bytes: int | None, thin_factor: float) -> int:
    """What a disk counts for: what is allocated, and a part of what it may still write. Unknown: all of it."""
    if allocated_bytes is None:
        return virtual_bytes
    return allocated_bytes + int(max(virtual_bytes - allocated_bytes, 0) / thin_factor)


class StorageMapping(Base):
    """Where disks go that lie in one storage of a host, when they are moved to another host."""

    __tablename__ = "storage_mapping"

    host: Mapped[str] = mapped_column(ForeignKey("host.name", ondelete="CASCADE"), primary_key=True)
    storage: Mapped[str] = mapped_column(String(64), primary_key=True)
    destination: Mapped[str] = mapped_column(ForeignKey("host.name", ondelete="CASCADE"), primary_key=True)
    destination_storage: Mapped[str] = mapped_column(String(64))
    format: Mapped[str | None] = mapped_column(String(16))
    """Of the images that are made there; null: the same."""
    thick: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """All of their room is taken at once."""
