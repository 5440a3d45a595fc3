"""The image that a running QEMU has open is compared with the file at its path: only the kernel knows the former.

QEMU itself opens an image anew, by its name, when it hands the guest over: to read only (`raw_reconfigure_getfd` in
block/file-posix.c). Where it does not find it any more the move fails at its very end, with "Bad address" (10.0.2).
"""

import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from models.plan import SourceDisk
from models.preflight import Check
from workers import files
from workers.preflight import astray, checks
from workers.preflight.astray import Identity, file_at
from workers.process import processes
from workers.process.processes import Process
from workers.qemu.options import IMAGES, TRUE, parse_command_line, spelled_out

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
    places = {path: disk for disk in disks for path in (disk.path, disk.data_file) if path is not None}
    away = _away(written, places, argv)
    missed = [path for path in places if file_at(path) not in (written if away else opened)]
    return [
        checks.process.OWN_ROOT.of(f"{path}, the image of disk {places[path].qdev} of QEMU (pid {process.pid})")
        if processes.sees_otherwise(process, path)
        else _sentence(path, places[path], process, away)
        for path in missed
    ]


def swapped(disks: Sequence[SourceDisk]) -> Iterator[Check]:
    """Images of one guest have each other's names: QEMU does not tell which it has open for which disk, but what that
    takes, as it has just been asked. An image that the guest has written to since takes what none was told to take.
    """
    moved = [(disk, _taken(disk.path)) for disk in disks if not disk.block_device]
    moved = [(disk, taken) for disk, taken in moved if taken != disk.allocated_bytes]
    for _ in disks:  # without one of them no other is in its place
        told, there = {disk.allocated_bytes for disk, _ in moved}, {taken for _, taken in moved}
        moved = [(disk, taken) for disk, taken in moved if disk.allocated_bytes in there and taken in told]
    for disk, _ in moved:
        other = next(other for other, taken in moved if taken == disk.allocated_bytes)
        seen = f"{disk.path}, the image of disk {disk.qdev}, is at {other.path} by now, as another one of its"
        yield checks.disks.IMAGE_ASTRAY.found(
            f"{seen} images is at its place", remedy="give each its former name again"
        )


def _taken(path: str) -> int | None:
    with suppress(OSError):
        return files.taken_bytes(Path(path).stat())
    return None


def put_back(process: Process, path: str, known: Collection[str], argv: Sequence[str]) -> str | None:
    """What brings a medium or backing file back to its path; None: it has no name any more.

    `known`: the paths of all images of the guest.
    """
    with suppress(OSError):
        _, opened = _open(process)
        return astray.remedy(path, _away(opened, known, argv))
    return None


def _away(opened: Mapping[Identity, str], images: Collection[str], argv: Sequence[str]) -> dict[Identity, str]:
    """What of this is not where an image is. Memory is none, nor what the command line has elsewhere, such as a log."""
    there = {file_at(path) for path in images}
    return {
        file: path
        for file, path in opened.items()
        if file not in there and (path in images or not (path.startswith("/memfd:") or _is_named(path, argv)))
    }


def _is_named(path: str, argv: Sequence[str]) -> bool:
    value = re.compile(rf"""(?:^|[=:,"']){re.escape(path.replace(",", ",,"))}(?:$|[,"'])""")
    return any(value.search(word) for word in argv)


def _open(process: Process) -> tuple[dict[Identity, str], dict[Identity, str]]:
    """Where the files and block devices lie that it has open for writing, and where all that it has open."""
    written, found = dict[Identity, str](), dict[Identity, str]()
    for descriptor in list(Path(f"/proc/{process.pid}/fd").iterdir()):
        with suppress(FileNotFoundError):  # closed meanwhile
            identity = astray.identity(descriptor.stat())
            if identity is not None and int(descriptor.name) > STDERR:
                found[identity] = str(descriptor.readlink())
                if descriptor.lstat().st_mode & stat.S_IWUSR:
                    written[identity] = found[identity]
    return written, found


def _sentence(path: str, disk: SourceDisk, process: Process, away: Mapping[Identity, str]) -> Check:
    what = "is gone" if file_at(path) is None else "is another file by now"
    which = "image" if path == disk.path else "data file"
    remedy = astray.remedy(path, away, disk.links if path == disk.path else ())
    if remedy is None:
        remedy = (
            f"it was deleted and is lost when the guest ends: {astray.cleared(path)}`stop` the guest, "
            f"`drive-backup` the disk to {disk.path}, and start the guest anew"
        )
    seen = f"{path}, the {which} of disk {disk.qdev}, {what}, and QEMU (pid {process.pid}) has it open"
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
        if name in opened_anew and file_at(_seen(name, *view)) not in opened
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
