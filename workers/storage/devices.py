"""Block devices: which one a path means, what it holds, and who uses it."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from drover.errors import PreconditionFailed
from workers import files
from workers.files import UnsafePath
from workers.process import processes


def real(path: Path) -> Path:
    """The block device that a path means, through links of root's or of the worker's own user.

    Raises:
        UnsafePath: somebody else's link is on the way.
        PreconditionFailed: there is no block device.
    """
    there = files.followed(path)
    status = files.status(there)
    if status is None:
        raise PreconditionFailed(f"there is no {path}")
    if not stat.S_ISBLK(status.st_mode):
        raise PreconditionFailed(f"{path} is no block device")
    return there


def is_one(path: Path) -> bool:
    """Whether a path means a block device."""
    with suppress(PreconditionFailed, UnsafePath, OSError):
        real(path)
        return True
    return False


def status(path: Path) -> os.stat_result | None:
    """Of the block device that a path means; None: there is none. Raises `UnsafePath`."""
    try:
        return files.status(real(path))
    except PreconditionFailed:
        return None


def opened(path: Path, flags: int) -> int:
    """A descriptor of the block device that a path means. Errors as for `real` and `os.open`."""
    descriptor = files.opened(real(path), flags)
    if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PreconditionFailed(f"{path} is no block device any more")
    return descriptor


def size_bytes(path: Path) -> int:
    """What it holds. Errors as for `opened`."""
    descriptor = opened(path, os.O_RDONLY)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def users(path: Path) -> str | None:
    """Who uses it, in words: whatever is mounted, mapped or opened. Errors as for `opened`."""
    device = real(path)
    if holders := sorted(holder.name for holder in (_in_sys(device) / "holders").glob("*")):
        return f"held by {', '.join(holders)}"
    if pids := [str(user.pid) for user in processes.having_open(device)]:
        return f"open in process {', '.join(pids)}"
    try:
        os.close(opened(path, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "mounted, or part of another device"
        raise
    return None


def read_only(path: Path) -> bool:
    """The kernel lets nobody write to it."""
    flag = _in_sys(path) / "ro"
    return flag.exists() and flag.read_text().strip() == "1"


def _in_sys(path: Path) -> Path:
    """What the kernel tells of it, sysfs(5)."""
    found = status(path)
    number = found.st_rdev if found is not None else 0
    return Path("/sys/dev/block", f"{os.major(number)}:{os.minor(number)}")


def unfit(path: Path, size: int, overwritten: list[str] | tuple[str, ...]) -> str | None:
    """Why a device that is there cannot take a guest's disk of this size, and what to do; None if it can.

    Args:
        path: the device, or a link to it.
        size: of the guest's disk, in bytes.
        overwritten: the devices that the operator has named as free to overwrite.
    """
    try:
        device = real(path)
        if str(path) not in overwritten and str(device) not in {os.path.realpath(named) for named in overwritten}:
            return (
                f"{path} is a block device that is there already: if nobody needs what is on it, name it as "
                f"`--overwrite-device {path}`"
            )
        if (used := users(path)) is not None:
            return f"{path} is in use ({used}), leave it: name another device"
        if (there := size_bytes(path)) < size:
            return f"{path} has {there} bytes and the guest's disk {size}: name a larger device"
        if read_only(path):
            return f"{path} is read-only: `blockdev --setrw {device}`, or name another device"
    except (PreconditionFailed, UnsafePath) as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be opened ({error.strerror}): name another device"
    return None
