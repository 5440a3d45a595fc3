"""The image that a running QEMU has open is compared with the file at its path: only the kernel knows the former.

QEMU itself opens an image anew, by its name, when it hands the guest over: to read only (`raw_reconfigure_getfd` in
block/file-posix.c). Where it does not find it any more the move fails at its very end, with "Bad address" (10.0.2).
"""

import os
import shlex
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from models.plan import SourceDisk
from models.preflight import Check
from workers.preflight import checks
from workers.process import processes
from workers.process.processes import DELETED, Process
from workers.qemu.options import IMAGES, TRUE, parse_command_line, spelled_out

Identity = tuple[int, int]
STDERR = 2


def elsewhere(process: Process, disks: Sequence[SourceDisk], argv: Sequence[str]) -> list[Check]:
    """Why the images cannot be moved: one was moved, replaced or deleted under the guest.

    QEMU has a disk open for writing, but a medium that was put into a drive it may have open to read only.
    """
    try:
        written, opened = _open(process)
    except PermissionError:
        return [
            checks.disks.IMAGE_ASTRAY.found(
                f"this worker may not see what QEMU (pid {process.pid}) has open", remedy="run the worker as root"
            )
        ]
    there = {disk.index: _file_at(disk.path) for disk in disks}
    astray = [path for identity, path in written.items() if identity not in there.values() and not _named(path, argv)]
    missed = [disk for disk in disks if there[disk.index] not in (written if astray else opened)]
    return [
        checks.process.OWN_ROOT.of(f"{disk.path}, the image of disk {disk.qdev} of QEMU (pid {process.pid})")
        if processes.sees_otherwise(process, disk.path)
        else _sentence(disk, process, there[disk.index], astray)
        for disk in missed
    ]


def _named(path: str, argv: Sequence[str]) -> bool:
    """It is memory, or where the command line has it, such as a log."""
    return path.startswith("/memfd:") or any(path in word for word in argv)


def _open(process: Process) -> tuple[dict[Identity, str], dict[Identity, str]]:
    """Where the files and block devices lie that it has open for writing, and where all that it has open."""
    written, found = dict[Identity, str](), dict[Identity, str]()
    for descriptor in list(Path(f"/proc/{process.pid}/fd").iterdir()):
        with suppress(FileNotFoundError):  # closed meanwhile
            identity = _identity(descriptor.stat())
            if identity is not None and int(descriptor.name) > STDERR:
                found[identity] = str(descriptor.readlink())
                if descriptor.lstat().st_mode & stat.S_IWUSR:
                    written[identity] = found[identity]
    return written, found


def _identity(status: os.stat_result) -> Identity | None:
    """What distinguishes a file or a block device; a device may have several names."""
    if stat.S_ISBLK(status.st_mode):
        return (-1, status.st_rdev)
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _file_at(path: str) -> Identity | None:
    with suppress(OSError):
        return _identity(Path(path).stat())
    return None


def _sentence(disk: SourceDisk, process: Process, there: Identity | None, astray: Sequence[str]) -> Check:
    what = "is gone" if there is None else "is another file by now"
    aside = "" if there is None else f"move what is at {disk.path} away, then "
    if len(astray) == 1 and not astray[0].endswith(DELETED):
        remedy = f"{aside}`mv {shlex.quote(astray[0])} {shlex.quote(disk.path)}`"
    elif all(path.endswith(DELETED) for path in astray):
        remedy = (
            f"it was deleted and is lost when the guest ends: {aside}`stop` the guest, `drive-backup` the disk to "
            f"{disk.path}, and start the guest anew"
        )
    else:
        remedy = f"{aside}put it back, it is one of {', '.join(astray)}"
    seen = f"{disk.path}, the image of disk {disk.qdev}, {what}, and QEMU (pid {process.pid}) has it open"
    return checks.disks.IMAGE_ASTRAY.found(seen, remedy=remedy)


def lost(process: Process, names: Sequence[str], argv: Sequence[str]) -> list[Check]:
    """Images that QEMU would have to open anew and cannot.

    Args:
        process: the guest's QEMU.
        names: of the images, as QEMU calls them.
        argv: its command line to the letter.
    """
    opened_anew = _opened_anew(argv)
    try:
        view = Path(f"/proc/{process.pid}/root"), Path(f"/proc/{process.pid}/cwd").readlink()
        _, opened = _open(process)
    except OSError:
        return []  # that it may not be looked at says `elsewhere`
    return [
        checks.disks.IMAGE_LOST.found(
            f"QEMU (pid {process.pid}) does not find {name} any more by that name, and would have to when the guest is "
            "handed over, for it has left the folder or the root that it was started in"
        )
        for name in names
        if name in opened_anew and _file_at(_seen(name, *view)) not in opened
    ]


def _opened_anew(argv: Sequence[str]) -> set[str]:
    """Values on the command line that name images which may become read-only by themselves."""
    options = [spelled_out(option) for option in parse_command_line(argv)]
    said = [(option, list(option.leaves())) for option in options if option.name in IMAGES]
    default = {"drive": "on", "blockdev": "off"}
    return {
        value.removeprefix("file:")
        for option, pairs in said
        if dict(pairs).get("auto-read-only", default[option.name]).lower() in TRUE
        for _, value in pairs
    }


def _seen(name: str, root: Path, folder: Path) -> str:
    """The path by which we find what the process finds under this name."""
    return f"{root}{Path(folder, name)}"
