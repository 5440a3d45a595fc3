"""The images that a guest left behind: set aside under another name, deleted when their time is over.

The rows say when. Which files they are the host wrote down itself: at the source's first step those that the guest's
QEMU has open, and later those that it set aside.
"""

import logging
import os
import threading
from collections import defaultdict
from pathlib import Path

from sqlalchemy import func, select

from drover.errors import Fatal
from drover.settings import Settings
from models.database import transaction
from models.fleet import retention_of
from models.job import Disk, Job
from models.plan import PlannedDisk
from workers import files, processes
from workers.files import UnsafePath
from workers.images import records
from workers.step import Context

log = logging.getLogger(__name__)

BLOCK = 512
"""Unit of `st_blocks`, stat(2)."""
_records = threading.Lock()
"""One thread at a time changes them: steps, the retirement beside the heartbeat, and `drover gc`."""


def write_down(ctx: Context) -> None:
    """Which files are the guest's images: those that its QEMU has open. Once for a job, while that QEMU lives.

    Raises:
        Fatal: it does not have one of the planned files open.
    """
    record = ctx.directory.source_images
    if record.read() or not ctx.source_alive:
        return
    record.add({disk.source_path: _inode(ctx, disk) for disk in ctx.disks})


def _inode(ctx: Context, disk: PlannedDisk) -> int:
    """Of what is renamed later, which may be a link of the operator's to what QEMU has open."""
    path = files.below(ctx.settings.guest_root, disk.source_path)
    there = files.status(path)
    if there is None or not processes.has_open(ctx.source_process, path.stat()):
        raise Fatal(
            f"{ctx.job.guest}'s QEMU (pid {ctx.source.pid}) does not have {path} open: "
            "put the image back where it was when the guest was started, then move the guest again"
        )
    return there.st_ino


def complete(ctx: Context) -> bool:
    """Every image was set aside."""
    return all(disk.retired_path for disk in ctx.job.disks) and not left(ctx)


def left(ctx: Context) -> bool:
    """An image of the guest is still where it was."""
    return any(files.status(Path(disk.source_path)) is not None for disk in ctx.disks)


def set_aside(ctx: Context) -> None:
    """Rename the images; the record is written first, so that no file is ever forgotten.

    Raises:
        Fatal: at a planned path is a file that this host did not write down as the guest's image.
    """
    adopt(ctx.settings)
    found = {disk.index: status for disk in ctx.disks if (status := _written_down(ctx, disk)) is not None}
    there = {index: status.st_ino for index, status in found.items()}
    aside = {disk.index: f"{disk.source_path}.drover-{ctx.job.id}" for disk in ctx.disks}
    with ctx.record() as (session, job, _step):
        kept_for = retention_of(session, job.source)
        until = ctx.claim.now() + kept_for
        for disk in job.disks:
            disk.retired_path = aside.get(disk.index)
            disk.retired_until = until
            if disk.index in found:
                disk.retired_bytes = found[disk.index].st_blocks * BLOCK
    for planned in ctx.disks:
        ctx.guard()
        if planned.index in there:
            with _records:
                records.retired(ctx.settings, job.id).add({aside[planned.index]: there[planned.index]})
            files.rename(Path(planned.source_path), Path(aside[planned.index]).name)
    ctx.job.disks = job.disks
    if not kept_for:
        delete_expired(ctx.settings)


def _written_down(ctx: Context, disk: PlannedDisk) -> os.stat_result | None:
    """The status of an image that is to be set aside; None: that was done before."""
    path = Path(disk.source_path)
    there = files.status(path)
    if there is None:
        return None
    if not ctx.directory.source_images.has(path, there):
        raise Fatal(
            f"{path} is not touched: this host did not write it down as an image of {ctx.job.guest}, which lives on "
            f"{ctx.job.destination} now. If the file is a former image of it, move it away by hand; then "
            f"`drover job retry {ctx.job.id}`"
        )
    return there


def _retired_path(disk: Disk) -> str:
    return f"{disk.source_path}.drover-{disk.job_id}"


def delete_expired(settings: Settings) -> None:
    """Delete what has been kept long enough on this host.

    A file system may take minutes for a large image: no transaction is open meanwhile. Doing it twice does no harm.
    """
    adopt(settings)
    with transaction() as session:
        expired = session.scalars(
            select(Disk).join(Job).where(Job.source == settings.host, Disk.retired_until <= func.clock_timestamp())
        ).all()
    for disk in expired:
        about = {"job": disk.job_id}
        path, record = Path(str(disk.retired_path)), records.retired(settings, disk.job_id)
        try:
            there = files.status(path)
            ours = there is not None and record.has(path, there)
            if ours:
                files.unlink(path)
        except (OSError, UnsafePath) as error:  # the others are deleted all the same
            log.warning("%s could not be deleted, it is tried again: %s", path, error, extra=about)
            continue
        with transaction() as session:
            session.get_one(Disk, (disk.job_id, disk.index)).retired_until = None
        if there is not None and not ours:
            log.warning("%s stays for good: this host did not set it aside", path, extra=about)
            continue
        with _records:
            record.forget(path)
        log.info("deleted %s: the guest left it behind, and it was kept long enough", path, extra=about)


def knows(settings: Settings, job_id: int, path: Path) -> bool:
    """The file at this path is what this host set aside there."""
    adopt(settings)
    there = files.status(path)
    return there is not None and records.retired(settings, job_id).has(path, there)


def adopt(settings: Settings) -> None:
    """Take over what an earlier version has set aside here, which wrote it into the rows alone, under names of ours."""
    with _records:
        if records.retired_folder(settings).exists():
            return
        with transaction() as session:
            rows = session.scalars(
                select(Disk).join(Job).where(Job.source == settings.host, Disk.retired_until.is_not(None))
            ).all()
        images = defaultdict[int, list[Path]](list)
        for disk in rows:
            if disk.retired_path == _retired_path(disk):
                try:
                    images[disk.job_id].append(files.below(settings.guest_root, disk.retired_path))
                except UnsafePath as error:
                    log.warning("%s", error, extra={"job": disk.job_id})
        records.adopt_retired(settings, images)
