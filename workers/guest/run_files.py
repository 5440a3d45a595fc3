"""Sockets and pidfiles that QEMUs which have ended left behind. Their paths come from a row, so each is looked at."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from drover.settings import Settings
from workers import files
from workers.files import UnsafePath
from workers.guest.qmp_ready import listens
from workers.process import processes

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


def _unlink_socket(path: Path) -> None:
    there = files.status(path)
    if there is not None and stat.S_ISSOCK(there.st_mode) and not listens(path):
        files.unlink(path)


def _unlink_pidfile(path: Path) -> None:
    descriptor = files.opened(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        text = os.read(descriptor, LONGEST_PID).strip() if regular else b""
    finally:
        os.close(descriptor)
    if text.isdigit() and processes.process(int(text)) is None:
        files.unlink(path)
