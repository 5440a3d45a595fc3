"""At the destination: where a guest's files would lie here, which of them are here already, and what is against it."""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from drover.errors import StepError
from drover.settings import Settings, StreamSecurity
from models.plan import FileKind, Inspection, NeededFile, NeededFolder, PlannedFile, PlannedFolder
from models.preflight import Check
from workers import files
from workers.files import UnsafePath
from workers.media import digests
from workers.media.listing import PATIENCE_S, me
from workers.preflight import checks
from workers.process import accounts
from workers.trust.policy import HostPolicy

FIRMWARE = tuple(
    Path("/usr/share", name)
    for name in (
        *("OVMF", "ovmf", "AAVMF", "edk2", "edk2-ovmf", "qemu-efi-aarch64", "qemu-efi-riscv64"),
        *("qemu", "seabios", "ipxe", "vgabios", "qemu-kvm", "pve-edk2-firmware"),
    )
)
"""Where distributions have it; the same file has another name in each."""


def planned_files(seen: Inspection, source_root: str, ours: Settings, rules: HostPolicy) -> tuple[PlannedFile, ...]:
    """Each file's place here. Firmware that lies elsewhere here is used where it lies."""
    return tuple(_planned(file, source_root, ours, rules) for file in seen.files)


def planned_folders(seen: Inspection, source_root: str, ours: Settings) -> tuple[PlannedFolder, ...]:
    """Each folder's place here."""
    return tuple(_folder(folder, source_root, ours) for folder in seen.folders)


def relocated(path: str, source_root: str, ours: Settings) -> str:
    """The same place below this host's guest root; what lies outside stays where it is."""
    there = Path(path)
    if not there.is_relative_to(source_root):
        return path
    return str(ours.guest_root / there.relative_to(source_root))


def _planned(file: NeededFile, root: str, ours: Settings, rules: HostPolicy) -> PlannedFile:
    path = relocated(file.path, root, ours)
    if file.kind is FileKind.FIRMWARE and not _is_there(path, file.digest, file.size_bytes, ours):
        path = _elsewhere(file, ours, rules) or path
    return PlannedFile(
        kind=file.kind,
        source_path=file.path,
        destination_path=path,
        size_bytes=file.size_bytes,
        digest=file.digest,
        mode=file.mode,
        owner=file.owner,
        group=file.group,
        format=file.format,
        backing=None if file.backing is None else relocated(file.backing, root, ours),
        secret=file.secret,
    )


def _folder(folder: NeededFolder, root: str, ours: Settings) -> PlannedFolder:
    path = relocated(folder.path, root, ours)
    return PlannedFolder(path=path, mode=folder.mode, owner=folder.owner, group=folder.group, pipe=folder.pipe)


def _elsewhere(file: NeededFile, ours: Settings, rules: HostPolicy) -> str | None:
    """The same firmware under another name."""
    for folder in FIRMWARE:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if rules.may_read(str(path)) and _is_there(str(path), file.digest, file.size_bytes, ours):
                return str(path)
    return None


def _is_there(path: str, digest: str, size: int, ours: Settings) -> bool:
    try:
        real = files.followed(Path(path))
        there = files.status(real)
        return there is not None and there.st_size == size and digests.equal(real, digest, ours.directory)
    except (OSError, StepError):
        return False


def looked_up(
    planned: Sequence[PlannedFile], ours: Settings, rules: HostPolicy, guest: str
) -> tuple[tuple[PlannedFile, ...], list[Check]]:
    """Which of them are here, and why others cannot be put here.

    Raises:
        Unavailable: a file is large, and is still being read.
    """
    until, found, problems = time.monotonic() + PATIENCE_S, [], []
    for file in planned:
        try:
            there = is_there(file, ours, max(until - time.monotonic(), 0.0))
        except Differs as error:
            problems.append(
                checks.files.FILE_DIFFERS.found(f"{error}, which {guest} uses as its {file.kind}", remedy=_remedy(file))
            )
            there = True
        found.append(file.model_copy(update={"there": there}))
        problems += [] if there else _cannot_be_made(file, ours, rules)
    return tuple(found), problems


class Differs(StepError):
    """Another file is at its place."""


def is_there(file: PlannedFile, ours: Settings, wait_s: float | None = None) -> bool:
    """Whether this very file is at its place.

    Raises:
        Differs: another one is.
        Unavailable: it is still being read.
    """
    path = Path(file.destination_path)
    try:
        real = files.followed(path)
        there = files.status(real)
        if there is None:
            return False
        agrees = stat.S_ISREG(there.st_mode) and _sizes_agree(file, there)
        if agrees and digests.equal(real, file.digest, ours.directory, wait_s):
            return True
    except OSError as error:
        raise Differs(f"{path} on {ours.host} cannot be read ({error.strerror})") from error
    except UnsafePath as error:
        raise Differs(str(error)) from error
    raise Differs(f"{path} on {ours.host} is not the file of that name on the guest's host")


def _sizes_agree(file: PlannedFile, there: os.stat_result) -> bool:
    return there.st_size == file.size_bytes or file.digest.startswith(digests.OVERLAY)


def _remedy(file: PlannedFile) -> str:
    match file.kind:
        case FileKind.BACKING:
            return "move it away if no guest needs it, or move this guest with `--chain flatten`"
        case FileKind.FIRMWARE:
            return "install the same version of its package on both hosts"
        case FileKind.MEDIUM:
            return "move it away if no guest needs it, or eject the medium"
    return "move it away if no guest needs it"


def _cannot_be_made(file: PlannedFile, ours: Settings, rules: HostPolicy) -> Iterator[Check]:
    path = file.destination_path
    try:
        files.below(ours.guest_root, path)
        outside = not rules.may_write(path)
    except UnsafePath:
        outside = True
    if outside:
        which = "" if file.kind is FileKind.SECRET else f" ({file.size_bytes} bytes, {file.digest})"
        yield checks.files.FILE_NOT_COPIED.found(
            f"{path}, which the guest needs as its {file.kind}, is not there, and lies outside of the guests' folders",
            remedy=f"put the same file{which} there",
        )
    if file.kind is FileKind.SECRET and ours.streams is StreamSecurity.PLAIN:
        yield checks.files.FILE_NOT_COPIED.found(
            f"{path} is a secret and would go over the network in plain text",
            remedy="encrypt the streams (DROVER_STREAMS), or put it there by hand",
        )
    if owner(file, rules) is None:
        yield checks.files.FILE_NOT_COPIED.found(
            f"{path} is {file.owner}:{file.group}'s on the guest's host, and {ours.host} has no such user or group",
            remedy="make them",
        )


def owner(made: PlannedFile | PlannedFolder, rules: HostPolicy) -> tuple[int, int] | None:
    """User and group that it gets here, our own where the policy does not know its user; None: it is unknown here."""
    if made.owner != "root" and made.owner not in rules.file.users:
        return me()
    return accounts.ids(made.owner, made.group)
