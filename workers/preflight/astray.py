"""What brings a file back to its path that a QEMU has open, and that is not there any more."""

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote

from models.plan import Link
from workers.process.processes import DELETED

Identity = tuple[int, int]
MOUNT_POINT = 4
"""The field of /proc/self/mountinfo, proc(5)."""


def identity(status: os.stat_result) -> Identity | None:
    """What distinguishes a file or a block device; a device may have several names."""
    if stat.S_ISBLK(status.st_mode):
        return (-1, status.st_rdev)
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def file_at(path: str) -> Identity | None:
    """What is at a path now."""
    with suppress(OSError):
        return identity(Path(path).stat())
    return None


def remedy(path: str, astray: Mapping[Identity, str], links: Sequence[Link] = ()) -> str | None:
    """What to do; None: the file has no name any more.

    Args:
        path: where it was.
        astray: what the process has open and is not where it was, by the paths that the kernel shows.
        links: those that lead to `path` now.
    """
    if path in astray.values():
        return f"`umount {quote(_mount_point(path))}`, which was mounted over it"
    there = [found for file, found in astray.items() if file_at(found) == file]
    if f"{path}{DELETED}" in astray.values() or not there:
        return None
    alike = [found for found in there if Path(found).name == Path(path).name]
    if len(there) > 1 and len(alike) != 1:
        return f"put it back, it is one of {', '.join(there)}"
    found = there[0] if len(there) == 1 else alike[0]
    return _by_its_link(found, path, links) or _by_its_folder(found, path) or f"{cleared(path)}{_moved(found, path)}"


def cleared(path: str) -> str:
    """What has to be done first where something else is at this path."""
    return f"move what is at {path} away, then " if os.path.lexists(path) else ""


def _by_its_link(found: str, path: str, links: Sequence[Link]) -> str | None:
    """A link leads to another place by now."""
    for link in reversed(links):
        meant = os.path.normpath(Path(link.path).parent / link.target)
        below = path.removeprefix(meant)
        if found.endswith(below) and (target := found.removesuffix(below)):
            return f"`ln -sfn {quote(target)} {quote(link.path)}`"
    return None


def _by_its_folder(found: str, path: str) -> str | None:
    """A folder above it has another name by now."""
    gone = [folder for folder in Path(path).parents if not folder.exists()]
    if not gone:
        return None
    below = path.removeprefix(str(gone[-1]))
    if found.endswith(below):
        return _moved(found.removesuffix(below), str(gone[-1]))
    return f"`mkdir -p {quote(str(gone[0]))}`, then {_moved(found, path)}"


def _moved(found: str, path: str) -> str:
    return f"`mv {quote(found)} {quote(path)}`"


def _mount_point(path: str) -> str:
    """The innermost one above it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = (line.split()[MOUNT_POINT].encode().decode("unicode_escape") for line in lines)
    return max((point for point in points if Path(path).is_relative_to(point)), key=len)
