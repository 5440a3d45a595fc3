"""What QEMUs that have ended left behind: sockets, pidfiles, memory. The paths come from a row: each is looked at."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from drover.settings import Settings
from workers import files
from workers.files import UnsafePath
from workers.process import processes
from workers.process.sockets import listens
from workers.qemu.options import MEMORY_FOLDERS
from workers.qemu.permissions import Made

LONGEST_PID = 20


def unlink_dead(settings: Settings, sockets: Iterable[str], pidfile: str | None) -> None:
    """Remove sockets that nobody listens on, and the pidfile if it holds nothing but the number of a dead process.

    Whatever lies elsewhere than below the guest root, or can only be reached by somebody else's link, stays: QEMU
    itself replaces a socket that is left.
    """
    for name in sockets:
        with suppress(UnsafePath):
            _unlink_socket(files.below(settings.guest_root, name))
    if pidfile:
        with suppress(UnsafePath, OSError):
            _unlink_pidfile(files.below(settings.guest_root, pidfile))


def in_the_way(made: Iterable[Made]) -> Iterator[Path]:
    """What lies where a QEMU makes its own, and is more than a dead socket or a log."""
    for each in made:
        if os.path.lexists(each.path) and not _worthless(Path(each.path), each):
            yield Path(each.path)


def left_over(made: Iterable[Made]) -> Iterator[Path]:
    """The files among it that are of no use to anybody else."""
    for path in in_the_way(each for each in made if each.own):
        with suppress(UnsafePath):
            there = files.status(path)
            if there is not None and stat.S_ISREG(there.st_mode):
                yield path


def unlink_memory(made: Iterable[Made]) -> None:
    """Remove memory of a guest that does not run here any more from where it takes that of the host."""
    unlink_left_over(each for each in made if each.path.startswith(MEMORY_FOLDERS))


def unlink_left_over(made: Iterable[Made]) -> None:
    """Remove them: of a QEMU in which no guest ever ran."""
    for path in left_over(made):
        files.unlink(path)


def _worthless(path: Path, made: Made) -> bool:
    if path.is_fifo() or (made.folder and path.is_dir()) or (made.read and path.is_file()):
        return True
    if path.is_socket():
        return not listens(path)
    return made.text and path.is_file() and _is_text(path)


def _is_text(path: Path) -> bool:
    """No image begins like that."""
    with suppress(UnsafePath), os.fdopen(files.opened(files.followed(path), os.O_RDONLY), "rb") as file:
        return b"\0" not in file.read(1 << 16)
    return False


def _unlink_socket(path: Path) -> None:
    there = files.status(path)
    if there is not None and stat.S_ISSOCK(there.st_mode) and not listens(path):
        files.unlink(path)


def _unlink_pidfile(path: Path) -> None:
    descriptor = files.opened(path, os.O_RDONLY)
    try:
        text = os.read(descriptor, LONGEST_PID).strip()
    finally:
        os.close(descriptor)
    if text.isdigit() and processes.process(int(text)) is None:
        files.unlink(path)
