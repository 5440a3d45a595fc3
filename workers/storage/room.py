"""Whether images that a move brings fit into this host's file systems, beside those of other moves under way."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select

from drover import words
from drover.errors import PreconditionFailed, UnreadableDocument
from drover.settings import Settings
from models import kept_images
from models.database import transaction
from models.kept_images import KeptImage
from models.plan import PlannedDisk, PlannedFile
from models.storage import THIN_FACTOR, Storage, counted_bytes, holding
from workers import files
from workers.files import UnsafePath
from workers.images import manifest
from workers.step import JobDirectory
from workers.trust import held_plan

RESERVE_BYTES = 256 << 20
"""Reserve that stays free on disks and in memory of a host."""
ThinFactors = Callable[[str], float]
"""How far the storage that a path of this host lies in may be over-committed."""


def check(
    disks: Sequence[PlannedDisk],
    ours: Settings,
    *,
    needed_files: Sequence[PlannedFile] = (),
    thin_factor: float | None = None,
    grown_bytes: int = 0,
    job_id: int | None = None,
    copies_give_way: bool = False,
) -> None:
    """Every file system must have room for the images that it will hold, and for those that are on their way to it.

    A disk counts with what it takes at the source, and with a part of the rest, see `models.storage.counted_bytes`.

    Args:
        disks: the images.
        ours: the settings.
        needed_files: what is copied besides; those that are there take no more room.
        thin_factor: of this move alone; None: as it is set for the storage.
        grown_bytes: what the guest has written since the move was planned.
        job_id: the job that brings them, which is not counted twice.
        copies_give_way: copies of moves that were rolled back are deleted once the room is needed.

    Raises:
        PreconditionFailed: one has not; the text has the missing size.
    """
    factors = thin_factors(ours, thin_factor)
    needed: dict[int, int] = defaultdict(int)
    example: dict[int, Path] = {}
    files_of_disks = [disk for disk in disks if not disk.destination_device]
    images = [(disk.destination_path, _counted(disk, factors, grown_bytes)) for disk in files_of_disks]
    missing = [file for file in needed_files if not os.path.lexists(file.destination_path)]
    for name, size in (*images, *((file.destination_path, file.size_bytes) for file in missing)):
        path = Path(name)
        device = manifest.existing_parent(path).stat().st_dev
        needed[device] += size
        example.setdefault(device, path)
    for device, size in needed.items():
        promised = _promised(device, factors, ours, but_for=job_id)
        folder = manifest.existing_parent(example[device])
        free = manifest.free_bytes(example[device]) - RESERVE_BYTES - promised
        free += _of_copies(folder, ours) if copies_give_way else 0
        if size > free:
            raise PreconditionFailed(_too_little(folder, size, free, promised) + _kept(folder, ours))


def _too_little(folder: Path, size: int, free: int, promised: int) -> str:
    others = f", after {words.size(promised)} for moves under way" if promised else ""
    return (
        f"{words.size(size)} are needed for images below {folder} and {words.size(free)} are free{others}: "
        f"make room for {words.size(size - max(free, 0))} more"
    )


def _of_copies(folder: Path, ours: Settings) -> int:
    return sum(image.takes_bytes or 0 for image in _kept_in(folder, ours) if image.copy)


def _kept_in(folder: Path, ours: Settings) -> list[KeptImage]:
    with transaction() as session:
        return kept_images.below(kept_images.kept(session, host=ours.host), folder)


def _kept(folder: Path, ours: Settings) -> str:
    """What could be deleted at once, if there is something."""
    images = _kept_in(folder, ours)
    if not (size := sum(image.takes_bytes or 0 for image in images)):
        return ""
    return f" (images that guests left behind take {words.size(size)} there: `drover image purge --host {ours.host}`)"


def _counted(disk: PlannedDisk, factors: ThinFactors, grown: int = 0) -> int:
    """Nobody knows which of its disks the guest wrote to: each counts as if it were that one."""
    allocated = disk.allocated_bytes
    if allocated is not None and grown:
        allocated = max(allocated, min(allocated + grown, disk.virtual_size_bytes))
    return counted_bytes(disk.virtual_size_bytes, allocated, factors(disk.destination_path))


def _promised(device: int, factors: ThinFactors, ours: Settings, *, but_for: int | None) -> int:
    """What images of other jobs have still to be given on this file system."""
    return sum(
        max(_counted(disk, factors) - taken, 0)
        for number, disk, there, taken in _arriving(ours)
        if there == device and number != but_for
    )


def _arriving(ours: Settings) -> Iterator[tuple[int, PlannedDisk, int, int]]:
    """Images that are being filled here: job, disk, file system, what it takes already."""
    for folder in JobDirectory.all_below(ours).glob("*"):
        directory = JobDirectory(folder)
        with suppress(OSError, ValueError, UnreadableDocument, UnsafePath):  # its job has just ended
            plan = held_plan.held(folder)
            for disk in plan.disks if plan is not None else ():
                path = Path(disk.destination_path)
                there = files.status(path) if directory.manifest.owns(path) else None
                if there is not None:
                    yield int(folder.name), disk, there.st_dev, files.taken_bytes(there)


def arriving_images(ours: Settings) -> list[Path]:
    """Where images are being filled now."""
    return [Path(disk.destination_path) for _, disk, _, _ in _arriving(ours)]


def thin_factors(ours: Settings, wanted: float | None) -> ThinFactors:
    """As set for each storage of this host; `wanted` is that of a move alone."""
    if wanted:
        return lambda path: wanted
    with transaction() as session:
        storages = session.scalars(select(Storage).where(Storage.host == ours.host)).all()

    def factor(path: str) -> float:
        there = holding(storages, path)
        return THIN_FACTOR if there is None else there.thin_factor

    return factor
