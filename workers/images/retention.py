"""The images that a guest left behind: set aside under another name, deleted when their time is over.

So is what a move that was rolled back has made at its destination, see `workers.images.way_back.keep_copy`.

The rows say when. Which files they are the host wrote down itself: at the source's first step those that the guest's
QEMU has open, and later those that it set aside.
"""

import logging
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy import Row, select

from drover.errors import DroverError, Fatal
from drover.settings import Settings
from models import kept_images
from models.database import transaction
from models.fleet import retention_of
from models.job import Disk, Job, unfinished
from models.kept_images import KeptImage
from models.plan import PlannedDisk
from models.storage import is_low
from workers import files
from workers.files import UnsafePath
from workers.images import manifest, records
from workers.launcher import keep_out
from workers.process import processes
from workers.step import Context
from workers.storage import devices, leaving
from workers.trust import policy

log = logging.getLogger(__name__)

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
    if leaving.is_device(disk, policy.of(ctx.settings)):
        return _device_number(ctx, Path(disk.source_path))
    path = files.place(disk.source_path, ctx.settings.guest_root, policy.of(ctx.settings).folders)
    there = files.status(path)
    if there is None or not processes.has_open(ctx.source_process, path.stat()):
        raise Fatal(_not_open(ctx, path))
    return there.st_ino


def _device_number(ctx: Context, path: Path) -> int:
    there = devices.status(path)
    if there is None or not processes.has_open(ctx.source_process, there):
        raise Fatal(_not_open(ctx, path))
    return records.mark(there)


def _not_open(ctx: Context, path: Path) -> str:
    return (
        f"{ctx.job.guest}'s QEMU (pid {ctx.source.pid}) does not have {path} open: "
        "put the image back where it was when the guest was started, then move the guest again"
    )


def complete(ctx: Context) -> bool:
    """Every image was set aside."""
    return all(disk.retired_path for disk in ctx.job.disks) and not left(ctx)


def left(ctx: Context) -> bool:
    """An image of the guest is still where it was, and is not to stay there."""
    return any(_there(ctx, disk) is not None for disk in ctx.disks if not _stays(ctx, disk))


def _stays(ctx: Context, disk: PlannedDisk) -> bool:
    rules = policy.of(ctx.settings)
    return leaving.is_device(disk, rules) and leaving.renamer(Path(disk.source_path), rules) is None


def _there(ctx: Context, disk: PlannedDisk) -> os.stat_result | None:
    """What is at the path of a disk: the block device, the file or link. A folder that keeps others out is nothing."""
    path = Path(disk.source_path)
    if keep_out.stands_at(ctx.settings, path):
        return None
    return _at(ctx, disk, path)


def _at(ctx: Context, disk: PlannedDisk, path: Path) -> os.stat_result | None:
    return devices.status(path) if leaving.is_device(disk, policy.of(ctx.settings)) else files.status(path)


def move_away(ctx: Context, disks: Iterable[PlannedDisk]) -> None:
    """Rename the images of these disks; the record is written first, so that no file is ever forgotten.

    Raises:
        Fatal: at a planned path is a file that this host did not write down as the guest's image.
    """
    adopt(ctx.settings)
    found = [(disk, status) for disk in disks if (status := _written_down(ctx, disk)) is not None]
    for disk, status in found:
        ctx.guard()
        remember(ctx.settings, ctx.job.id, aside(ctx, disk), records.mark(status))
        _rename(ctx, disk, aside(ctx, disk))


def now_at(ctx: Context, path: Path) -> Path:
    """Where an image is that may have been moved away."""
    kept_at = Path(records.beside(path, ctx.job.id))
    return kept_at if knows(ctx.settings, ctx.job.id, kept_at) else path


def set_aside(ctx: Context) -> None:
    """Keep the images under their later names, from now on for as long as was asked for. Errors as for `move_away`."""
    move_away(ctx, ctx.disks)
    names = {disk.index: aside(ctx, disk) for disk in ctx.disks}
    there = {disk.index: _at(ctx, disk, Path(names[disk.index])) for disk in ctx.disks}
    with ctx.record() as (session, job, _step):
        kept_for = retention_of(session, job.source, job.options.retention_s)
        until = ctx.claim.now() + kept_for
        for disk in job.disks:
            disk.retired_path = names.get(disk.index)
            disk.retired_until = until
            if (image := there.get(disk.index)) is not None:
                disk.retired_bytes = files.taken_bytes(image)
    ctx.job.disks = job.disks
    if not kept_for:
        delete_expired(ctx.settings)


def put_back(ctx: Context) -> None:
    """The guest goes on here after all: what was set aside of it has its former names again.

    Raises:
        FileExistsError: something else has one of them.
    """
    for disk in ctx.disks:
        kept_at = Path(aside(ctx, disk))
        if knows(ctx.settings, ctx.job.id, kept_at):
            ctx.guard()
            keep_out.clear(ctx.settings, Path(disk.source_path))
            _rename_back(ctx, disk, kept_at)
            forget(ctx.settings, ctx.job.id, kept_at)
    _put_more_back(ctx)
    records.way_back(ctx.settings, ctx.job.id).unlink(missing_ok=True)
    with ctx.record() as (_session, job, _step):
        for row in job.disks:
            row.retired_path, row.retired_until, row.retired_bytes = None, None, None
    ctx.job.disks = job.disks


def _rename_back(ctx: Context, disk: PlannedDisk, kept_at: Path) -> None:
    rules, path = policy.of(ctx.settings), Path(disk.source_path)
    if leaving.is_device(disk, rules):
        leaving.put_back(kept_at, path, rules)
    else:
        files.move(kept_at, path.name)


def _put_more_back(ctx: Context) -> None:
    record = records.retired_more(ctx.settings, ctx.job.id)
    for kept_at in map(Path, record.read()):
        there = files.status(kept_at)
        if there is not None and record.has(kept_at, there):
            ctx.guard()
            files.move(kept_at, kept_at.name.removesuffix(f".drover-{ctx.job.id}"))
        with _records:
            record.forget(kept_at)


def set_more_aside(ctx: Context, paths: Iterable[Path]) -> None:
    """Further files that are the guest's alone: kept for as long as its images, gone where those are."""
    with transaction() as session:
        kept = select(Disk.job_id).where(Disk.job_id == ctx.job.id, Disk.retired_until.is_not(None))
        keeps = session.scalar(kept.limit(1)) is not None
    for path in paths:
        there = files.status(path)
        if there is None:
            continue
        ctx.guard()
        if not keeps:
            files.unlink(path)
            continue
        kept_as = records.beside(path, ctx.job.id)
        with _records:
            records.retired_more(ctx.settings, ctx.job.id).add({kept_as: records.mark(there)})
        files.rename(path, Path(kept_as).name)


def aside(ctx: Context, disk: PlannedDisk) -> str:
    """The path of an image, or of a device, once it is set aside."""
    rules = policy.of(ctx.settings)
    if leaving.is_device(disk, rules):
        return leaving.aside(Path(disk.source_path), ctx.job.id, rules)
    return records.beside(disk.source_path, ctx.job.id)


def _rename(ctx: Context, disk: PlannedDisk, aside: str) -> None:
    rules, path = policy.of(ctx.settings), Path(disk.source_path)
    if leaving.is_device(disk, rules):
        leaving.set_aside(path, aside, rules)
    else:
        files.rename(path, Path(aside).name)


def _written_down(ctx: Context, disk: PlannedDisk) -> os.stat_result | None:
    """The status of an image that is to be set aside; None: that was done before."""
    path = Path(disk.source_path)
    there = _there(ctx, disk)
    if there is None:
        return None
    if not ctx.directory.source_images.has(path, there):
        raise Fatal(
            f"{path} is not touched: this host did not write it down as an image of {ctx.job.guest}, which lives on "
            f"{ctx.job.destination} now. If the file is a former image of it, move it away by hand; then "
            f"`drover job retry {ctx.job.id}`"
        )
    return there


def delete_expired(settings: Settings) -> None:
    """Delete what has been kept long enough on this host. What somebody has deleted by hand is kept no more either.

    A file system may take minutes for a large image: no transaction is open meanwhile. Doing it twice does no harm.
    """
    adopt(settings)
    over = [disk for disk, expired in _kept_here(settings) if expired or _was_deleted(settings, disk)]
    for disk in over:
        about = {"job": disk.job_id}
        path, record = Path(str(disk.retired_path)), records.retired(settings, disk.job_id)
        try:
            number = record.read().get(str(path), 0)
            there = devices.status(path) if number < 0 else files.status(path)
            ours = there is not None and record.has(path, there)
            stays = ours and number < 0 and not leaving.free(path, number, policy.of(settings))
            if ours and number > 0:
                files.unlink(path)
        except (OSError, DroverError) as error:  # the others are deleted all the same
            log.warning("%s could not be deleted, it is tried again: %s", path, error, extra=about)
            continue
        with transaction() as session:
            row = session.get_one(Disk, (disk.job_id, disk.index))
            if row.retired_until != disk.retired_until:  # a guest has come back to it, and was put back
                continue
            row.retired_until = None
        if there is not None and not ours:
            log.warning("%s stays for good: this host did not set it aside", path, extra=about)
            continue
        forget(settings, disk.job_id, path)
        records.way_back(settings, disk.job_id).unlink(missing_ok=True)
        log.info("%s %s", path, _what_became(there is None, stays), extra=about)
    for job_id in {disk.job_id for disk in over}:
        _delete_more(settings, job_id)


def _what_became(was_gone: bool, stays: bool) -> str:
    if was_gone:
        return "is not there any more, somebody else has deleted it: its guest comes back there as a whole"
    if stays:
        return "stays: no storage made it. The guest left it behind, and it was kept long enough"
    return "is deleted: it was kept long enough"


def _kept_here(settings: Settings) -> Sequence[Row[Disk, bool]]:
    """What this host keeps, and whether long enough; of jobs at work only that."""
    mine = (kept_images.on_host() == settings.host) & Disk.retired_until.is_not(None)
    expired = kept_images.expired()
    with transaction() as session:
        return session.execute(select(Disk, expired).join(Job).where(mine, expired | ~unfinished())).all()


def _was_deleted(settings: Settings, disk: Disk) -> bool:
    """By somebody else: it is not in its folder, or that is gone as well. Where a file system is not mounted nothing is
    there, or an empty folder that the image was not in. A volume may only be switched off.
    """
    path = Path(str(disk.retired_path))
    if records.retired(settings, disk.job_id).read().get(str(path), 0) < 0:
        return False
    try:
        above = manifest.existing_parent(path)
        return files.status(path) is None and (above == path.parent or any(above.iterdir()))
    except (OSError, DroverError):
        return False


def _delete_more(settings: Settings, job_id: int) -> None:
    """What was set aside beside images, once they are all gone."""
    with transaction() as session:
        disks = session.scalars(select(Disk).where(Disk.job_id == job_id)).all()
    if any(disk.retired_until is not None for disk in disks):
        return
    record = records.retired_more(settings, job_id)
    for path in map(Path, record.read()):
        there = files.status(path)
        if there is not None and record.has(path, there):
            files.unlink(path)
        with _records:
            record.forget(path)


def remember(settings: Settings, job_id: int, path: str, mark: int) -> None:
    """Write down that an image which a job's guest left behind is there; `mark` is that of `records.mark`."""
    with _records:
        records.retired(settings, job_id).add({path: mark})


def forget(settings: Settings, job_id: int, path: Path) -> None:
    """It is not, or it is a guest's disk again."""
    with _records:
        records.retired(settings, job_id).forget(path)


def make_room(settings: Settings) -> None:
    """Where a file system gets full, delete the oldest of what is kept there, one after the other until it is not.

    Copies of moves that were rolled back come first: no guest ever lived on them.
    """
    while (image := _oldest_in_the_way(settings)) is not None:
        log.warning(
            "%s is deleted before its time: its file system gets full. It is kept for the guest %s",
            image.path,
            image.guest,
            extra={"job": image.job_id, "guest": image.guest},
        )
        with transaction() as session:
            kept_images.expire(session, [image])
        delete_expired(settings)


def drop_a_copy(settings: Settings, folders: Iterable[Path]) -> bool:
    """Delete the oldest copy of a rolled back move in the file systems of these folders; false: there is none."""
    with transaction() as session:
        images = [image for image in kept_images.kept(session, host=settings.host) if image.copy]
        copies = [image for folder in folders for image in kept_images.below(images, folder)]
        kept_images.expire(session, copies[:1])
    delete_expired(settings)
    return bool(copies)


def _oldest_in_the_way(settings: Settings) -> KeptImage | None:
    with transaction() as session:
        images = sorted(kept_images.kept(session, host=settings.host), key=lambda image: not image.copy)
    return next((image for image in images if image.takes_bytes and not image.last_way_back and _cramped(image)), None)


def _cramped(image: KeptImage) -> bool:
    """It takes room of a file system of this host that will be full soon."""
    folder = Path(image.path).parent
    if not folder.is_dir():
        return False
    usage = shutil.disk_usage(folder)
    return is_low(usage.total, usage.free)


def knows(settings: Settings, job_id: int, path: Path) -> bool:
    """The file at this path is what this host set aside there."""
    adopt(settings)
    record = records.retired(settings, job_id)
    there = devices.status(path) if record.read().get(str(path), 0) < 0 else files.status(path)
    return there is not None and record.has(path, there)


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
            if disk.retired_path == records.beside(disk.source_path, disk.job_id):
                try:
                    images[disk.job_id].append(files.below(settings.guest_root, disk.retired_path))
                except UnsafePath as error:
                    log.warning("%s", error, extra={"job": disk.job_id})
        records.adopt_retired(settings, images)
