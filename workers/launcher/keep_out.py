"""A folder in the place of an image that was moved away: no QEMU starts on it, and no image is made there anew.

Where a guest's launcher stays and nobody can tell it anything, it starts a QEMU as soon as the guest's own has ended.
One that has ended may be called again: by cron, at boot, by what looks for the guest from time to time. Such scripts
make a missing image first. `qemu-img`, `cp`, `mv`, `dd` and QEMU all refuse to take a folder for a file.
"""

import os
import stat
from pathlib import Path
from typing import Annotated

from drover.settings import Settings
from models.contracts import Part, nested
from models.event_action import EventAction
from models.launcher import Launcher, LauncherKind
from workers import files
from workers.launcher import inhibitor
from workers.process.processes import Process
from workers.step import Context
from workers.trust import own_file

NOTE = "README"


class KeepOut(Part):
    """A folder in the place of an image that has left."""

    inode: int
    job: int
    """Which moved the image away."""
    launcher: Annotated[Launcher, nested(Launcher)]


def _record(settings: Settings) -> Path:
    return settings.directory / "kept-out.json"


def is_needed(ctx: Context, launcher: Launcher) -> bool:
    """Nobody has told it anything, or it is unknown."""
    untold = launcher.stays is not None and inhibitor.program(ctx.settings) is None
    return untold or launcher.kind is LauncherKind.NOBODY


def put(ctx: Context, launcher: Launcher) -> None:
    """In the place of every image of the guest, which were moved away before. While its former QEMU still lives.

    Raises:
        UnsafePath: somebody else's link is on the way.
    """
    paths = [Path(disk.source_path) for disk in ctx.disks if not disk.source_device]
    if all(stands_at(ctx.settings, path) for path in paths):
        return
    guest, host = ctx.job.guest, ctx.job.source
    started = (
        f"{launcher.sentence} stays on {host}, and nobody can tell it anything"
        if launcher.stays
        else f"what started {guest} on {host} has ended, and may be called again"
    )
    sentence = f"{started}: folders in the place of the former images keep it from starting {guest} a second time"
    ctx.tell(EventAction.LAUNCHER, sentence)
    for path in paths:
        ctx.guard()
        with own_file.edited(_record(ctx.settings)) as known:
            if files.status(path) is None:
                with files.folder(path.parent) as above:
                    os.mkdir(path.name, files.GUESTS_FOLDER, dir_fd=above)
                _explain(path, ctx)
            there = files.status(path)
            if there is not None and stat.S_ISDIR(there.st_mode):
                made = KeepOut(inode=there.st_ino, job=ctx.job.id, launcher=launcher)
                known[str(path)] = made.json_object()


def _explain(path: Path, ctx: Context) -> None:
    text = (
        f"{ctx.job.guest} lives on {ctx.job.destination} now (Drover, job {ctx.job.id}). This folder keeps what "
        "started it here from starting it a second time. "
        f"Its former image is {path}.drover-{ctx.job.id}, as long as that is kept.\n"
    )
    descriptor = files.opened(path / NOTE, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def stands_at(settings: Settings, path: Path) -> bool:
    """What is there is such a folder."""
    return _known(settings, path) is not None


def launcher_left(settings: Settings, path: Path) -> str | None:
    """Why no image may be made there yet: what was kept out is still at work. A sentence."""
    known = _known(settings, path)
    if known is None:
        return None
    launcher = known.launcher
    if launcher.pid is None or launcher.started is None or not Process(launcher.pid, launcher.started).alive:
        return None
    return (
        f"{launcher.name} (pid {launcher.pid}) would start a QEMU of its own on {path} as soon as that is an image "
        "again: end it first"
    )


def clear(settings: Settings, path: Path) -> None:
    """The guest comes home: take such a folder away; anything else stays."""
    if not stands_at(settings, path):
        return
    files.unlink(path / NOTE)
    files.remove_if_empty(path)
    with own_file.edited(_record(settings)) as known:
        if files.status(path) is None:
            known.pop(str(path), None)


def _known(settings: Settings, path: Path) -> KeepOut | None:
    record = _record(settings)
    if not record.exists():
        return None
    with own_file.edited(record) as known:
        entry = known.get(str(path))
    there = files.status(path)
    if entry is None or there is None or not stat.S_ISDIR(there.st_mode):
        return None
    kept = KeepOut.model_validate(entry)
    return kept if kept.inode == there.st_ino else None
