"""Making a job's images and volumes at the destination, and what is in the way of that."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from drover import words
from drover.errors import Fatal, PreconditionFailed, UnreadableDocument
from drover.settings import Settings
from models.plan import DestinationPlan, Layout, PlannedDisk, PlannedFile
from models.storage import counted_bytes
from workers import files
from workers.files import UnsafePath
from workers.images import manifest, records
from workers.images.manifest import Key
from workers.qemu import inline_secrets
from workers.step import Context, JobDirectory
from workers.storage import devices, drivers
from workers.storage.drivers import VolumeDriver
from workers.storage.room import ThinFactors
from workers.trust import policy
from workers.trust.policy import HostPolicy

NO_NAMELESS = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOSYS}
"""A file system, or a kernel, that knows no files without names."""


def place(path: str, ours: Settings, rules: HostPolicy) -> Path:
    """A path that came from elsewhere, if an image may be made there.

    Raises:
        UnsafePath: it may not.
    """
    return files.place(path, ours.guest_root, rules.folders)


def device_problems(
    disks: Sequence[PlannedDisk], ours: Settings, rules: HostPolicy, layout: Layout, factors: ThinFactors
) -> list[str]:
    """What is in the way of the block devices among these disks: sentences."""
    devices_of_it = [disk for disk in disks if disk.destination_device]
    found = [problem for disk in devices_of_it if (problem := _problem(disk, ours, rules, layout))]
    return found or list(_without_room(devices_of_it, rules, factors))


def _problem(disk: PlannedDisk, ours: Settings, rules: HostPolicy, layout: Layout) -> str | None:
    path = Path(disk.destination_path)
    if (number := _job_of(path, ours)) is not None:
        return f"{path} belongs to job {number}: `drover job show {number}` says how far that is"
    if disk.volume_of is None:
        return devices.unfit(path, needed_bytes(disk), layout.overwrite)
    if os.path.lexists(path):
        return f"{path} exists already: if nobody needs what is on it, name it as `--overwrite-device {path}`"
    return None


def _without_room(disks: Sequence[PlannedDisk], rules: HostPolicy, factors: ThinFactors) -> Iterator[str]:
    """Storages that do not hold all the volumes that are to be made in them."""
    for name in dict.fromkeys(disk.volume_of for disk in disks if disk.volume_of is not None):
        try:
            driver = drivers.driver(name, rules)
            needed = sum(_takes(driver, disk, factors) for disk in disks if disk.volume_of == name)
            room = driver.room()
        except (Fatal, PreconditionFailed) as error:
            yield str(error)
            continue
        if room is not None and room[1] < needed:
            short = f"the storage {name} has {words.size(room[1])} free and the guest's disks need {words.size(needed)}"
            yield f"{short} there: make room, or name another storage with --storage"


def _takes(driver: VolumeDriver, disk: PlannedDisk, factors: ThinFactors) -> int:
    """What its volume takes of the storage; a thin one only as much as is written to it."""
    size = needed_bytes(disk)
    if driver.thin:
        return counted_bytes(size, disk.allocated_bytes, factors(disk.destination_path))
    return driver.takes(size)


def _job_of(path: Path, ours: Settings) -> int | None:
    """The job that has this device now."""
    for folder in JobDirectory.all_below(ours).glob("*"):
        try:
            if JobDirectory(folder).volumes.owns(path):
                return int(folder.name)
        except (OSError, ValueError, UnreadableDocument):  # it has just ended
            continue
    return None


def needed_bytes(disk: PlannedDisk) -> int:
    """What a block device must hold for this disk: all of it, and the tables of its format."""
    if disk.format == "raw":
        return disk.virtual_size_bytes
    return manifest.measured(disk.format, disk.virtual_size_bytes, disk.create_options.get("cluster_size"))


def programs(disks: Sequence[PlannedDisk], rules: HostPolicy) -> list[str]:
    """What has to be installed here for these volumes: sentences."""
    used = {rules.storages[disk.volume_of].driver for disk in disks if disk.volume_of in rules.storages}
    if "lvm" in used and shutil.which("lvcreate") is None:
        return ["there is no lvcreate here: install it (Debian's lvm2 holds it)"]
    return []


def impossible_files(
    disks: Sequence[PlannedDisk], needed: Sequence[PlannedFile], others: Iterable[str] = ()
) -> dict[str, str]:
    """Why not all of these images and files can be made, nor `others` (folders, sockets and logs), each with what to
    do. Tried with files without names, all at once, which are gone afterwards: so it is found in whichever way the
    kernel counts.
    """
    wanted = {disk.destination_path: _begins_with(disk) for disk in disks}
    more = {**dict.fromkeys(others, 0), **{file.destination_path: file.size_bytes for file in needed}}
    wanted |= {path: size for path, size in more.items() if not os.path.lexists(path)}
    found = dict[str, str]()
    with ExitStack() as stack:
        for path, size in wanted.items():
            folder = manifest.existing_parent(Path(path))
            try:
                number = files.nameless(folder)
                stack.callback(os.close, number)
                os.ftruncate(number, size)
            except UnsafePath:
                continue  # refused for that
            except OSError as error:
                if error.errno not in NO_NAMELESS or not os.access(folder, os.W_OK):
                    found |= [_impossible(folder, size, error)]
    return found


def _begins_with(disk: PlannedDisk) -> int:
    """How large its file is from the start, or will be at least."""
    whole = disk.format != "qcow2" or "preallocation" in disk.create_options
    return disk.virtual_size_bytes if whole else min(disk.allocated_bytes or 0, disk.virtual_size_bytes)


def _impossible(folder: Path, size: int, error: OSError) -> tuple[str, str]:
    elsewhere = "name another place with `--disk N=PATH` or `--storage NAME`"
    match error.errno:
        case errno.EROFS:
            return f"{folder} is on a file system that is mounted read-only", f"mount it writable, or {elsewhere}"
        case errno.ENOSPC:
            return f"{folder} is on a file system that has no inodes left", f"delete files there, or {elsewhere}"
        case errno.EDQUOT:
            return f"in {folder} the quota of this worker's user is used up", f"raise it, or {elsewhere}"
        case errno.EFBIG | errno.EINVAL:
            larger = "larger than its file system, or this worker's limit (RLIMIT_FSIZE), lets a file be"
            return f"an image of {words.size(size)} in {folder} would be {larger}", f"raise the limit, or {elsewhere}"
    return f"this worker cannot make files in {folder} ({error.strerror})", "let it write there"


def claim(ctx: Context, disk: PlannedDisk) -> None:
    """Write a disk's image or device down as this job's, and make the device if it is to be made.

    Raises:
        PreconditionFailed, UnsafePath: something is in the way.
        Fatal: a volume could not be made.
    """
    rules, path = policy.of(ctx.settings), Path(disk.destination_path)
    if not disk.destination_device:
        ctx.directory.manifest.claim(place(disk.destination_path, ctx.settings, rules))
        return
    if ctx.directory.volumes.owns(path):
        return
    if disk.volume_of is not None:
        ctx.directory.volumes.make(path, needed_bytes(disk), disk.volume_of, rules)
        return
    if (problem := _problem(disk, ctx.settings, rules, ctx.plan.layout)) is not None:
        raise PreconditionFailed(problem)
    ctx.directory.volumes.take(path)


def fill(disk: PlannedDisk, key: Key | None = None) -> None:
    """Make the empty image, an encrypted one with its key; a raw block device needs none, because a mirror writes all
    of it.
    """
    path = _file(disk)
    if not (disk.destination_device and disk.format == "raw"):
        backing = (disk.chain[0].path, disk.chain[0].format) if disk.chain else None
        manifest.create(path, disk.format, disk.virtual_size_bytes, disk.create_options, backing, key)


def is_claimed(directory: JobDirectory, disk: PlannedDisk) -> bool:
    """The file is this job's, and its links are there; an encrypted image is made once its key is there."""
    try:
        return directory.owns(Path(disk.destination_path)) and _has_links(disk)
    except UnsafePath:
        return False


def is_made(directory: JobDirectory, disk: PlannedDisk) -> bool:
    """The image or device is this job's, and holds a disk of the guest's size."""
    path = Path(disk.destination_path)
    try:
        if not directory.owns(path):
            return False
        if disk.destination_device and disk.format == "raw":
            return devices.size_bytes(path) >= disk.virtual_size_bytes
        made = manifest.virtual_size(_file(disk), disk.format) == disk.virtual_size_bytes
        if made and disk.key_secret is not None:
            made = manifest.is_encrypted(_file(disk), disk.format)
        return made and _has_links(disk)
    except (PreconditionFailed, UnsafePath):
        return False


def _has_links(disk: PlannedDisk) -> bool:
    return all(Path(link.path).is_symlink() for link in disk.links)


def key(plan: DestinationPlan, disk: PlannedDisk) -> Key | None:
    """What opens an encrypted disk, in files that the guest's QEMU reads as well."""
    if disk.key_secret is None:
        return None
    return Key(secret=disk.key_secret, objects=inline_secrets.objects(plan.argv, disk.key_secret))


def _file(disk: PlannedDisk) -> Path:
    path = Path(disk.destination_path)
    return devices.real(path) if disk.destination_device else path


def delete_all(ctx: Context) -> None:
    """Remove what the job made here, and nothing else."""
    ctx.directory.manifest.delete_all()
    if ctx.directory.volumes.read():
        ctx.directory.volumes.delete_all(policy.of(ctx.settings))


def set_aside_all(ctx: Context) -> list[Path]:
    """Nothing of it is removed, and none of it is the job's any more: files get another name, devices stay."""
    kept = []
    for path in ctx.directory.manifest.files():
        ctx.guard()
        aside = Path(records.beside(path, ctx.job.id))
        files.move(path, aside.name)
        ctx.directory.manifest.forget(path)
        kept.append(aside)
    ctx.guard()
    return kept + ctx.directory.volumes.let_go()
