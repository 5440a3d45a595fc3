"""The images that a guest left behind: set aside under another name, deleted when their time is over.

The rows say when. What is deleted is only what this host wrote down in its own folder when it set it aside.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from sqlalchemy import func, select

from drover.settings import Settings
from models.database import transaction
from models.fleet import retention_of
from models.job import Disk, Job
from workers.own_file import edited
from workers.step import Context

log = logging.getLogger(__name__)


NAME = "retired.json"
_said: set[str] = set()
"""Paths of rows that this host knows nothing of, each said once."""


def complete(ctx: Context) -> bool:
    """Every image was set aside."""
    recorded = all(disk.retired_path for disk in ctx.job.disks)
    return recorded and not left(ctx)


def left(ctx: Context) -> bool:
    """An image of the guest is still where it was."""
    return any(Path(disk.source_path).exists() for disk in ctx.disks)


def set_aside(ctx: Context) -> None:
    """Rename the images; the record is written first, so that no file is ever forgotten."""
    aside = {disk.index: f"{disk.source_path}.drover-{ctx.job.id}" for disk in ctx.disks}
    with ctx.record() as (session, job, _step):
        kept_for = retention_of(session, job.source)
        until = ctx.claim.now() + kept_for
        for disk in job.disks:
            disk.retired_path = aside.get(disk.index)
            disk.retired_until = until
    for planned in ctx.disks:
        ctx.guard()
        if Path(planned.source_path).exists():
            remember(ctx.settings, ctx.job.id, Path(planned.source_path), aside[planned.index])
            Path(planned.source_path).rename(aside[planned.index])
    ctx.job.disks = job.disks
    if not kept_for:
        delete_expired(ctx.settings)


def remember(settings: Settings, job_id: int, image: Path, aside: str) -> None:
    """Write down that this very file, now or soon at the path `aside`, is this host's to delete."""
    with edited(settings.directory / NAME) as known:
        known[aside] = {"job": job_id, "inode": os.lstat(image).st_ino}


def delete_expired(settings: Settings) -> None:
    """Delete what has been kept long enough on this host.

    A file system may take minutes for a large image: no transaction is open meanwhile. Doing it twice does no harm.
    """
    with transaction() as session:
        expired = session.scalars(
            select(Disk).join(Job).where(Job.source == settings.host, Disk.retired_until <= func.clock_timestamp())
        ).all()
    for disk in expired:
        about = {"job": disk.job_id}
        try:
            gone = _delete(settings, disk.job_id, str(disk.retired_path))
        except OSError as error:  # the others are deleted all the same
            log.warning("%s could not be deleted, it is tried again: %s", disk.retired_path, error, extra=about)
            continue
        if not gone:
            continue
        with transaction() as session:
            session.get_one(Disk, (disk.job_id, disk.index)).retired_until = None
        log.info("deleted %s: the guest left it behind, and it was kept long enough", disk.retired_path, extra=about)


def _delete(settings: Settings, job_id: int, path: str) -> bool:
    """Whether it is gone. Its folder is asked what it is, never the row alone."""
    ours = knows(settings, job_id, Path(path))
    if not ours and os.path.lexists(path):
        if path not in _said:
            _said.add(path)
            log.warning("%s stays: this host did not set it aside", path, extra={"job": job_id})
        return False
    if ours:
        Path(path).unlink(missing_ok=True)
        with edited(settings.directory / NAME) as known:
            known.pop(path, None)
    return True


def knows(settings: Settings, job_id: int, path: Path) -> bool:
    """The file at this path is what this host set aside there, or that is gone."""
    with edited(settings.directory / NAME) as known:
        recorded = known.get(str(path))
    return recorded is not None and recorded["job"] == job_id and _inode(str(path)) in {None, recorded["inode"]}


def _inode(path: str) -> int | None:
    with suppress(FileNotFoundError):
        return os.lstat(path).st_ino
    return None
