"""A block device that its guest has left: renamed by its storage, or kept as it is; freed once its time is over."""

from pathlib import Path

from drover.errors import Fatal
from models.plan import PlannedDisk
from workers.images.records import beside, mark
from workers.storage import devices, drivers
from workers.storage.drivers import VolumeDriver
from workers.trust.policy import HostPolicy


def is_device(disk: PlannedDisk, rules: HostPolicy) -> bool:
    """The source's image is a block device itself; a link to one in the guest's folder is set aside like a file."""
    path = Path(disk.source_path)
    return disk.source_device and (path.is_relative_to("/dev") or drivers.owner(path, rules) is not None)


def renamer(path: Path, rules: HostPolicy) -> VolumeDriver | None:
    """What gives the device another name; None: it stays where it is."""
    made_by = drivers.owner(path, rules)
    return made_by if made_by is not None and made_by.renames else None


def aside(path: Path, job_id: int, rules: HostPolicy) -> str:
    """Where the device is once it is set aside."""
    return beside(path, job_id) if renamer(path, rules) is not None else str(path)


def set_aside(path: Path, name: str, rules: HostPolicy) -> None:
    """Give it the other name. Done before, nothing happens."""
    made_by = renamer(path, rules)
    if made_by is not None and devices.is_one(path):
        made_by.rename(path.name, Path(name).name)


def put_back(kept_at: Path, path: Path, rules: HostPolicy) -> None:
    """Give it its former name again."""
    made_by = renamer(path, rules)
    if made_by is not None and kept_at != path:
        made_by.rename(kept_at.name, path.name)


def free(path: Path, number: int, rules: HostPolicy) -> bool:
    """Remove a volume that was set aside; false: no storage of this host has made it, so it stays.

    Raises:
        Fatal: it could not be removed.
    """
    made_by = renamer(path, rules)
    there = devices.status(path)
    if made_by is None or there is None:
        return there is None
    if mark(there) != number:
        raise Fatal(f"{path} is another device than the one that was set aside")
    made_by.remove(path.name)
    return True
