"""An image at the destination belongs to whom it belonged, by name: its QEMU opens it as that user; and who does."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from models.plan import PlannedDisk
from workers import files
from workers.process import execution, processes
from workers.process.processes import Process
from workers.step import Context


def give_away(ctx: Context, disk: PlannedDisk) -> None:
    """Give the image its owner and mode; a device stays as it is."""
    source = next((one for one in ctx.source.disks if one.index == disk.index), None)
    if source is None or source.owner is None or source.group is None or source.mode is None:
        return
    there = files.status(Path(disk.destination_path))
    if there is None or not stat.S_ISREG(there.st_mode):
        return
    owner = execution.owner_here(ctx.source.started_as, (source.owner, source.group))
    descriptor = files.opened(Path(disk.destination_path), os.O_RDONLY)
    try:
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, source.mode)
    finally:
        os.close(descriptor)


def users(disks: Iterable[PlannedDisk]) -> list[Process]:
    """The processes that have images at the destination open."""
    found = []
    for disk in disks:
        with suppress(FileNotFoundError):
            found += processes.having_open(Path(disk.destination_path))
    return found
