"""The images that a guest left behind: set aside under another name, deleted when their time is over."""

import logging
from pathlib import Path

from sqlalchemy import func, select

from drover.settings import Settings
from models.database import transaction
from models.fleet import retention_of
from models.job import Disk, Job
from workers.step import Context

log = logging.getLogger(__name__)


def complete(ctx: Context) -> bool:
    """Every image was set aside."""
    return all(disk.retired_path and not Path(disk.source_path).exists() for disk in ctx.job.disks)


def set_aside(ctx: Context) -> None:
    """Rename the images; the record is written first, so that no file is ever forgotten."""
    with ctx.record() as (session, job, _step):
        kept_for = retention_of(session, job.source)
        until = ctx.claim.now() + kept_for
        for disk in job.disks:
            disk.retired_path = f"{disk.source_path}.drover-{job.id}"
            disk.retired_until = until
    for disk in job.disks:
        ctx.guard()
        if Path(disk.source_path).exists():
            Path(disk.source_path).rename(str(disk.retired_path))
    ctx.job.disks = job.disks
    if not kept_for:
        delete_expired(ctx.settings)


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
            Path(str(disk.retired_path)).unlink(missing_ok=True)
        except OSError as error:  # the others are deleted all the same
            log.warning("%s could not be deleted, it is tried again: %s", disk.retired_path, error, extra=about)
            continue
        with transaction() as session:
            session.get_one(Disk, (disk.job_id, disk.index)).retired_until = None
        log.info("deleted %s: the guest left it behind, and it was kept long enough", disk.retired_path, extra=about)
