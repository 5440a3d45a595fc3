"""The images that a guest left behind, as the beginning of its disks when it comes back: only what changed is sent.

A changed page on an image that is not what it is taken for would be silent corruption. So both hosts write down in the
same instant, at the switchover, what they build on: the source what its images were (`workers.images.evidence`), under
the name of the bitmaps in which the destination's QEMU records all that the guest writes from then on. The name stands
for one copy of one move. Whatever does not fit leads to a copy of everything, and is told.

What a move that was rolled back has made at its destination is such a beginning as well if the copy was complete. Then
the bitmaps are in the QEMU of the source, which the guest never left, see `workers.disks.kept_copy`.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import exists, select, update

from drover.errors import DroverError, PreconditionFailed, Transient, UnreadableDocument
from drover.settings import Settings
from models import kept_images
from models.database import transaction
from models.event_action import EventAction
from models.fleet import retention_of
from models.job import Disk, Event, Job
from models.plain import Evidence
from models.plan import Inspection, PlannedDisk
from models.way_back import FormerImage, WayBack
from workers import files
from workers.document_file import DocumentFile
from workers.files import write_durably
from workers.images import evidence, manifest, records, retention
from workers.qemu import written
from workers.step import Context, JobDirectory

log = logging.getLogger(__name__)
GONE = "they are not kept any more"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a guest that comes here can begin with."""

    way: WayBack | None = None
    changed_bytes: int | None = None
    """What has changed since, as the guest was looked at last."""
    why: str | None = None
    """Why all of it is copied although images of it are here."""


def _taken(directory: JobDirectory) -> DocumentFile[WayBack]:
    return DocumentFile(directory.path / "way-back.json", WayBack)


def write_down(ctx: Context, bitmap: str, left: Mapping[str, Evidence]) -> None:
    """The guest has left this host, its QEMU has ended, and its images are set aside.

    `left` is what they were at the switchover, {path: evidence}. Where they are not the same any more nothing is
    written down, and the guest comes back as a whole.
    """
    chains = {disk.index: disk.chain for disk in ctx.source.disks}
    images = []
    for disk in ctx.disks:
        image_format, kept_at = disk.source_format or disk.format, retention.aside(ctx, disk)
        seen = left.get(disk.source_path)
        why = "it is no file" if seen is None else _touched(Path(kept_at), seen)
        why = why or _more_than_a_disk(Path(kept_at), image_format, disk.virtual_size_bytes)
        if why is not None or seen is None:
            log.info("it will come back as a whole: %s: %s", kept_at, why)
            return
        images.append(
            FormerImage(
                path=disk.source_path,
                kept_at=kept_at,
                format=image_format,
                virtual_size_bytes=disk.virtual_size_bytes,
                chain=chains[disk.index],
                evidence=seen,
            )
        )
    _write(ctx.settings, WayBack(guest=ctx.job.guest, job=ctx.job.id, bitmap=bitmap, images=tuple(images)))


def _more_than_a_disk(image: Path, image_format: str, size_bytes: int) -> str | None:
    if manifest.only_a_disk(image, image_format, size_bytes):
        return None
    return "it has snapshots or bitmaps, which would be out of date, a data file beside it, or more than the disk"


def keep_copy(ctx: Context) -> None:
    """The move is rolled back. Its images are set aside where they are of use for the next one. May be done again."""
    way = _of_this_job(ctx)
    if way is None and _may_be_kept(ctx):
        try:
            way = _as_they_are(ctx)
        except (OSError, DroverError) as error:
            ctx.tell(EventAction.WAY_BACK, f"its copy on {ctx.job.destination} is deleted all the same: {error}")
    if way is None:
        return
    _write(ctx.settings, way)
    with ctx.record() as (session, job, _step):
        kept_for = retention_of(session, ctx.settings.host, job.options.retention_s)
        for disk in job.disks:
            image = way.images[disk.index]
            there = files.status(Path(image.path)) or files.status(Path(image.kept_at))
            disk.retired_path, disk.retired_until = image.kept_at, ctx.claim.now() + kept_for
            disk.retired_bytes = files.taken_bytes(there) if there is not None else None
    for image in way.images:
        ctx.guard()
        _set_aside(ctx, way, image)


def _of_this_job(ctx: Context) -> WayBack | None:
    """A worker that died has begun to keep its copy."""
    return next((way for way in _known(ctx.settings) if way.job == ctx.job.id), None)


def _may_be_kept(ctx: Context) -> bool:
    """The source has recorded what this copy lacks, and images are kept here at all."""
    if ctx.held is None or not all(ctx.directory.manifest.owns(Path(disk.destination_path)) for disk in ctx.held.disks):
        return False  # nothing was made, or it went back to images that are put back
    with transaction() as session:
        recorded = session.scalar(
            select(exists().where(Event.job_id == ctx.job.id, Event.action == EventAction.COPY_RECORDED))
        )
        kept_for = retention_of(session, ctx.settings.host, ctx.job.options.retention_s)
    return bool(recorded and kept_for)


def _as_they_are(ctx: Context) -> WayBack:
    """The images of this job. Nothing but what the source has recorded is missing in them, if the NBD server has closed
    them: one that was killed may have taken anything along that it had acknowledged.

    Raises:
        OSError, DroverError: they are nothing to build upon.
    """
    closed = ctx.directory.closed_images.read()
    if closed is None:
        raise PreconditionFailed("its NBD server ended before it had closed the images")
    images = tuple(_as_it_is(ctx, disk) for disk in ctx.disks)
    bitmap = written.name(ctx.job.id, closed.nonce)
    return WayBack(guest=ctx.job.guest, job=ctx.job.id, bitmap=bitmap, images=images)


def _as_it_is(ctx: Context, disk: PlannedDisk) -> FormerImage:
    path, kept_at = Path(disk.destination_path), records.beside(disk.destination_path, ctx.job.id)
    seen, why = evidence.of(path), _more_than_a_disk(path, disk.format, disk.virtual_size_bytes)
    if seen is None or why is not None or files.status(Path(kept_at)) is not None:
        raise PreconditionFailed(f"{path}: {why or 'it is no file, or its place beside it is taken'}")
    return FormerImage(
        path=disk.destination_path,
        kept_at=kept_at,
        format=disk.format,
        virtual_size_bytes=disk.virtual_size_bytes,
        chain=disk.chain,
        evidence=seen,
    )


def _set_aside(ctx: Context, way: WayBack, image: FormerImage) -> None:
    path = Path(image.path)
    if ctx.directory.manifest.owns(path):
        retention.remember(ctx.settings, way.job, image.kept_at, image.evidence.inode)
        files.move(path, Path(image.kept_at).name)
    ctx.directory.manifest.forget(path)


def _write(settings: Settings, way: WayBack) -> None:
    path = records.way_back(settings, way.job)
    files.private_folder(path.parent)
    write_durably(path, json.dumps(way.json_object()))


def _known(settings: Settings) -> Iterator[WayBack]:
    for path in sorted(records.ways_back(settings).glob("*.json")):
        with suppress(OSError, ValueError, UnreadableDocument):  # it was purged meanwhile, or a later version wrote it
            yield WayBack.read(json.loads(path.read_text()))


def expected(settings: Settings, guest: str, source: Inspection, planned: Sequence[PlannedDisk]) -> Choice:
    """What there is by all that is written down, if nobody has touched the images since."""
    known, disks = [way for way in _known(settings) if way.guest == guest], source.disks
    if not disks:
        return Choice()
    recorded = frozenset.intersection(*(frozenset(disk.written) for disk in disks))
    ways = [(way, _differences(way, planned)) for way in known if way.bitmap in recorded]
    if not ways and _were_kept(settings, recorded):
        return Choice(why=GONE)
    if not ways:
        unknown = f"what has changed since then is not known: {_why_unknown(source.qemu_version)}"
        return Choice(why=unknown if known else None)
    fit = [(sum(disk.written[way.bitmap] for disk in disks), way) for way, why in ways if not why]
    if not fit:
        return Choice(why=ways[0][1])
    changed, way = min(fit, key=lambda found: found[0])
    return Choice(way=way, changed_bytes=changed)


def _were_kept(settings: Settings, bitmaps: Iterable[str]) -> bool:
    """Of a move since which these bitmaps record images were kept here, and one of them is not any more."""
    jobs = [job for name in bitmaps if (job := written.job_of(name)) is not None]
    if not jobs:
        return False
    was_kept = Disk.retired_path.is_not(None) & Disk.retired_until.is_(None)
    query = select(Disk.job_id).join(Job).where(Job.id.in_(jobs), kept_images.on_host() == settings.host, was_kept)
    with transaction() as session:
        return session.scalar(query.limit(1)) is not None


def _why_unknown(version: tuple[int, int, int]) -> str:
    if version < written.TELLS_SIZES_SINCE:
        shown = ".".join(map(str, version))
        return f"its QEMU ({shown}) may have missed that a disk was made smaller; 10.0 and later do not"
    return (
        "its QEMU was started anew, it has been elsewhere meanwhile, or a disk of it is new, lies on a snapshot or was "
        "made smaller meanwhile"
    )


def _differences(way: WayBack, planned: Sequence[PlannedDisk]) -> str:
    """Why these disks cannot be begun with what is kept; empty: nothing is against it."""
    differences = [why for disk in planned if (why := _unlike(disk, way)) is not None]
    if len(planned) != len(way.images):
        differences.append("it had another number of disks when it left")
    differences += [
        f"{image.kept_at}: {why}"
        for image in way.images
        if (why := _touched(Path(image.kept_at), image.evidence)) is not None
    ]
    return "; ".join(differences)


def _unlike(disk: PlannedDisk, way: WayBack) -> str | None:
    path = disk.destination_path
    image = next((image for image in way.images if image.path == path), None)
    if image is None or disk.destination_device:
        return f"{path} is not where one of its images was"
    if disk.key_secret is not None:
        return f"{path} is encrypted"
    if (image.format, image.virtual_size_bytes) != (disk.format, disk.virtual_size_bytes):
        return f"{path} had another size or format when it left"
    if image.chain != disk.chain:
        return f"{path} lay on other backing files when it left"
    return None


def chosen(ctx: Context) -> Choice:
    """Likewise, and they are still kept. On the destination, before anything is made for the job."""
    if (way := taken(ctx.directory)) is not None:
        return Choice(way=way)
    if any(ctx.directory.owns(Path(disk.destination_path)) for disk in ctx.disks):
        return Choice()  # a worker that died has begun with empty images
    choice = expected(ctx.settings, ctx.job.guest, ctx.source, ctx.disks)
    if choice.way is None:
        return choice
    kept = _kept_until(choice.way)
    if len(kept) != len(choice.way.images):
        return Choice(why=GONE)
    return replace(choice, way=choice.way.model_copy(update={"kept_until": max(kept)}))


def _touched(image: Path, then: Evidence) -> str | None:
    try:
        return evidence.differs(then, evidence.of(image))
    except (OSError, DroverError) as error:
        return f"it cannot be read: {error}"


def _kept_until(way: WayBack) -> list[datetime]:
    """Of each image that is still kept."""
    query = select(Disk.retired_until).join(Job).where(Disk.job_id == way.job, Disk.retired_until.is_not(None))
    with transaction() as session:
        return [until for until in session.scalars(query.where(~kept_images.expired())) if until is not None]


def taken(directory: JobDirectory) -> WayBack | None:
    """The images that this job began with on this host."""
    return _taken(directory).read()


def take(ctx: Context, way: WayBack) -> None:
    """Put the images where the guest's disks are to be: they are this job's from now on. May be done again.

    Raises:
        Transient: one of them vanished; the next attempt copies everything.
    """
    ctx.guard()
    _taken(ctx.directory).write(way)
    _keep(ctx, way, kept=False)
    for image in way.images:
        ctx.guard()
        path, kept_at = Path(image.path), Path(image.kept_at)
        ctx.directory.manifest.put(path, image.evidence.inode)
        if not ctx.directory.manifest.owns(path):
            try:
                files.link(kept_at, path.name)  # unlike a rename it never replaces what somebody has put there
            except OSError as error:
                put_back(ctx)
                raise Transient(f"{kept_at} cannot be taken back as {path}: {error}") from error
        files.unlink(kept_at)
        retention.forget(ctx.settings, way.job, kept_at)
    records.way_back(ctx.settings, way.job).unlink(missing_ok=True)


def give_up(ctx: Context) -> None:
    """The guest has written to them here, which no bitmap of its source holds: they are a way back no more."""
    ctx.guard()
    _taken(ctx.directory).remove()


def _keep(ctx: Context, way: WayBack, *, kept: bool) -> None:
    """Say in the rows of the job that left them here whether they are kept: as long as before at least."""
    with ctx.record() as (session, _job, _step):
        left_by, now = session.get_one(Job, way.job), ctx.claim.now()
        kept_for = retention_of(session, ctx.settings.host, left_by.options.retention_s)
        until = max(now + kept_for, way.kept_until or now) if kept else None
        mine = (Disk.job_id == way.job) & Disk.retired_path.is_not(None)
        session.execute(update(Disk).where(mine).values(retired_until=until))


def put_back(ctx: Context) -> None:
    """The job is rolled back: the images are kept as before.

    They are a way back as before only if nothing was sent but changes, which the bitmap holds as well.
    """
    way = taken(ctx.directory)
    if way is None:
        return
    left = []
    for image in way.images:
        ctx.guard()
        _set_aside(ctx, way, image)
        left.append(evidence.of(Path(image.kept_at)))
    _keep(ctx, way, kept=True)
    if None not in left and all(disk.delta_bytes is not None for disk in ctx.job.disks):
        images = [image.model_copy(update={"evidence": seen}) for image, seen in zip(way.images, left, strict=True)]
        _write(ctx.settings, way.model_copy(update={"images": tuple(images)}))
    _taken(ctx.directory).remove()
