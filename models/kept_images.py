"""Images that guests left behind and that are still kept: the way back to where each of them came from.

Likewise those of moves that were rolled back after the copy was complete: the next move there sends only what changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from models.guest import Guest
from models.job import Disk, Job, JobState


@dataclass(frozen=True, kw_only=True)
class KeptImage:
    """An image that a host still has."""

    job_id: int
    """Which moved the guest away, or was rolled back."""
    index: int
    guest: str
    host: str
    path: str
    takes_bytes: int | None
    """Of its file system; None: it was not looked at."""
    since: datetime
    until: datetime
    last_way_back: bool
    """The guest's check failed after this move: it stays until the guest has moved again."""
    copy: bool = False
    """The guest never lived on it: a move that was rolled back has made it."""


@cache
def last_way_back() -> ColumnElement[bool]:
    """Of jobs: the guest may have to go back to the images that this one left behind."""
    later = aliased(Job)
    moved_again = exists().where(later.guest == Job.guest, later.id > Job.id, later.state == JobState.DONE)
    lives_there = exists().where(Guest.name == Job.guest, Guest.host == Job.destination)
    return and_(Job.way_back_needed, lives_there, ~moved_again)


@cache
def is_copy() -> ColumnElement[bool]:
    """Of jobs: what is kept of them was made at the destination, where the guest never lived."""
    return and_(Job.committed_at.is_(None), ~Job.kept_by_source, Job.state != JobState.DONE)


@cache
def on_host() -> ColumnElement[str]:
    """Of jobs: where what is kept of them lies."""
    return case((is_copy(), Job.destination), else_=Job.source)


def kept(
    session: Session,
    *,
    guest: str | None = None,
    host: str | None = None,
    older_than: timedelta | None = None,
    ending_within: timedelta | None = None,
) -> list[KeptImage]:
    """All of them, or those of one guest or host, the oldest first."""
    since = func.coalesce(Job.committed_at, Job.finished_at, Job.created_at)
    conditions = [
        *([Job.guest == guest] if guest is not None else []),
        *([on_host() == host] if host is not None else []),
        *([since < func.now() - older_than] if older_than is not None else []),
        *([Disk.retired_until < func.now() + ending_within] if ending_within is not None else []),
    ]
    query = (
        select(
            Disk,
            Job.guest,
            on_host().label("host"),
            is_copy().label("copy"),
            since.label("since"),
            Disk.retired_until.label("until"),
            last_way_back().label("needed"),
        )
        .join(Job)
        .where(Disk.retired_path.is_not(None), Disk.retired_until.is_not(None), ~expired(), *conditions)
        .order_by("since", Disk.job_id, Disk.index)
    )
    return [_image(row) for row in session.execute(query)]


def _image(row: Any) -> KeptImage:
    disk: Disk = row.Disk
    return KeptImage(
        job_id=disk.job_id,
        index=disk.index,
        guest=row.guest,
        host=row.host,
        path=str(disk.retired_path),
        takes_bytes=disk.retired_bytes,
        since=row.since,
        until=row.until,
        last_way_back=row.needed,
        copy=row.copy,
    )


def any_of(session: Session, job_id: int) -> bool:
    """Whether an image is kept that this job has left."""
    return bool(session.scalar(select(exists().where(Disk.job_id == job_id, Disk.retired_until.is_not(None)))))


@cache
def expired() -> ColumnElement[bool]:
    """Of disks joined to their jobs: the image was kept long enough, and nobody may need it."""
    return and_(Disk.retired_until <= func.clock_timestamp(), ~last_way_back())


def expire(session: Session, images: Sequence[KeptImage]) -> None:
    """Their time is over, whoever may need them: their hosts delete them within moments."""
    jobs = {image.job_id for image in images if image.last_way_back}
    session.execute(update(Job).where(Job.id.in_(jobs)).values(way_back_needed=False))
    for image in images:
        mine = (Disk.job_id == image.job_id) & (Disk.index == image.index) & Disk.retired_until.is_not(None)
        session.execute(update(Disk).where(mine).values(retired_until=func.clock_timestamp()))


def below(images: Sequence[KeptImage], folder: Path) -> list[KeptImage]:
    """Those that lie in the same file system as a folder of this host."""
    there = folder.stat().st_dev
    return [image for image in images if (parent := Path(image.path).parent).is_dir() and parent.stat().st_dev == there]
