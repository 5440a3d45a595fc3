"""At the source: the files and folders that a guest needs besides its writable disks, as they are now."""

import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from drover.errors import StepError
from drover.settings import Settings
from models.plan import BackingImage, Chain, FileKind, NeededFile, NeededFolder, SourceDisk
from models.preflight import Check
from workers import files
from workers.media import digests
from workers.preflight import checks, open_images
from workers.process import accounts, processes
from workers.process.processes import Process
from workers.qemu import inline_secrets
from workers.qemu.disks import ReadOnlyImage
from workers.qemu.needed_files import Named, named_files
from workers.qemu.permissions import written

PATIENCE_S = 15.0
"""A host that asks waits 30 s for the answer."""
FORMATS = {"raw", "qcow2"}
TLS_FILES = (
    *("ca-cert.pem", "ca-crl.pem", "dh-params.pem", "keys.psk"),
    *("server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem"),
)
"""What QEMU reads in the folder of a `tls-creds-*`."""
DELETED = {
    FileKind.BACKING: "it was deleted: move the guest with `--chain flatten`",
    FileKind.MEDIUM: "it was deleted: eject it, or unplug its disk",
    FileKind.FIRMWARE: checks.files.NEEDED_FILE.remedy,
}
"""What to do about an image that has no name any more."""
A_COPY = (
    "give the guest a plain file that nobody changes: a CD drive takes one while it runs (`blockdev-change-medium`), "
    "else restart it with that"
)
FOLDER_MODE, FILE_MODE = 0o2777, 0o777


@dataclass
class Listing:
    """What was found."""

    files: dict[str, NeededFile] = field(default_factory=dict)
    folders: dict[str, NeededFolder] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    """What prevents a move, and what to warn of."""


def listed(
    argv: Sequence[str],
    guest: Process,
    disks: Sequence[SourceDisk],
    media: Sequence[ReadOnlyImage],
    paths: Iterable[str | None],
    ours: Settings,
    chain: Chain,
    secrets: Mapping[str, bytes] | None = None,
) -> Listing:
    """All that the guest needs; `paths` are further files that lie in folders of the guest, `secrets` what files will
    hold that are not there: {id of the secret: content}.

    Raises:
        Unavailable: a file is large, and is still being read.
    """
    return _Search(argv, guest, ours, secrets or {}).all(disks, media, paths, chain)


class _Search:
    def __init__(self, argv: Sequence[str], guest: Process, ours: Settings, secrets: Mapping[str, bytes]) -> None:
        self.argv, self.guest, self.ours = argv, guest, ours
        self.secrets = secrets
        self.found = Listing()
        self.images: list[str] = []
        self.until = time.monotonic() + PATIENCE_S

    def all(
        self, disks: Sequence[SourceDisk], media: Sequence[ReadOnlyImage], paths: Iterable[str | None], chain: Chain
    ) -> Listing:
        images: list[SourceDisk | ReadOnlyImage] = [*disks, *media]
        for image in images:
            self.images += [image.path, *(level.path for level in image.chain)]
        for disk in disks if chain == "keep" else ():
            if disk.chain and disk.key_secret:
                self.found.checks.append(
                    checks.disks.BACKING_FILE.found(f"{disk.path} is encrypted, and lies on {disk.chain[0].path}")
                )
            self._chain(disk.path, disk.chain)
        for medium in media:
            self._chain(medium.path, medium.chain)
            below = medium.chain[0].path if medium.chain else None
            self._image(medium.kind, medium.path, medium.format, below)
        for named in _spread(named_files(self.argv)):
            self._file(named)
        everything = [*(disk.path for disk in disks), *self.found.files, *filter(None, paths)]
        made = [each.path for each in written(self.argv)]
        for path in (*everything, *made):
            self._folders(path)
        for path in made:
            for name in (path, f"{path}.in", f"{path}.out"):  # qemu-options(7), `-chardev pipe`
                self._pipe(name)
        return self.found

    def _chain(self, image: str, chain: Sequence[BackingImage]) -> None:
        for level in reversed(range(len(chain))):
            backing = chain[level]
            below = chain[level + 1].path if level + 1 < len(chain) else None
            if not backing.path.startswith("/") or backing.format not in FORMATS:
                self.found.checks.append(
                    checks.disks.BACKING_FILE.found(f"{image} lies on {backing.path} ({backing.format})")
                )
                return
            self._image(FileKind.BACKING, backing.path, backing.format, below)

    def _image(self, kind: FileKind, path: str, image_format: str, backing: str | None) -> None:
        """One that QEMU has open."""
        if path in self.found.files:
            return
        if not path.startswith("/"):
            self._against(f"the {kind} {path} is no file of this host", remedy="eject it")
            return
        with suppress(OSError):
            if not processes.has_open(self.guest, Path(path).stat()):
                seen = f"the file {path} is not the one that the guest's QEMU (pid {self.guest.pid}) has open"
                if kind is not FileKind.FIRMWARE:
                    self._against(seen, remedy=self._put_back(kind, path))
                    return
                self.found.checks.append(checks.files.FIRMWARE_REPLACED.of(seen))
        self._add(kind, path, image_format, backing)

    def _file(self, named: Named) -> None:
        if named.secret is not None and named.secret in self.secrets:
            self._add_secret(named, self.secrets[named.secret])
        elif not named.path.startswith("/"):
            seen = f"{named.path}, a {named.kind} of the guest, is relative to an unknown directory"
            self.found.checks.append(checks.files.RELATIVE_PATH.found(seen))
        elif named.path not in self.found.files and (not named.optional or Path(named.path).exists()):
            self._add(named.kind, named.path, None, None)

    def _add(self, kind: FileKind, path: str, image_format: str | None, backing: str | None) -> None:
        try:
            real = files.followed(Path(path))
            with digests.opened(real) as (_, there):
                pass
            left = max(self.until - time.monotonic(), 0.0)
            digest = digests.of(real, form(kind, image_format, backing), self.ours.directory, left)
        except FileNotFoundError:
            self._against(f"{path}, a {kind} of the guest, is not there any more", remedy=self._put_back(kind, path))
        except (OSError, StepError) as error:
            seen = f"{path}, a {kind} of the guest, cannot be copied: {error}"
            if kind is FileKind.BACKING:
                self.found.checks.append(checks.disks.BACKING_FILE.found(seen))
            else:
                self._against(seen, remedy=A_COPY)
        else:
            self.found.files[path] = NeededFile(
                kind=kind,
                path=path,
                size_bytes=there.st_size,
                digest=digest,
                mode=there.st_mode & FILE_MODE,
                owner=accounts.user_name(there.st_uid),
                group=accounts.group_name(there.st_gid),
                format=image_format,
                backing=backing,
            )

    def _add_secret(self, named: Named, content: bytes) -> None:
        """One that stands on the command line; its file will be that of the QEMU's user alone."""
        owner = Path(f"/proc/{self.guest.pid}").stat()
        self.found.files[named.path] = NeededFile(
            kind=FileKind.SECRET,
            path=named.path,
            size_bytes=len(content),
            digest=digests.of_secret(content),
            mode=inline_secrets.MODE,
            owner=accounts.user_name(owner.st_uid),
            group=accounts.group_name(owner.st_gid),
            secret=named.secret,
        )

    def _against(self, seen: str, remedy: str) -> None:
        self.found.checks.append(checks.files.NEEDED_FILE.found(seen, remedy=remedy))

    def _put_back(self, kind: FileKind, path: str) -> str:
        """Only where QEMU has it open is it known where it is."""
        if path not in self.images:
            return checks.files.NEEDED_FILE.remedy
        return open_images.put_back(self.guest, path, self.images, self.argv) or DELETED[kind]

    def _pipe(self, path: str) -> None:
        with suppress(OSError):
            there = Path(path).lstat()
            if stat.S_ISFIFO(there.st_mode) and Path(path).is_relative_to(self.ours.guest_root):
                self.found.folders[path] = self._needed(path, there, pipe=True)

    def _needed(self, path: str, there: os.stat_result, *, pipe: bool = False) -> NeededFolder:
        return NeededFolder(
            path=path,
            mode=there.st_mode & FOLDER_MODE,
            owner=accounts.user_name(there.st_uid),
            group=accounts.group_name(there.st_gid),
            pipe=pipe,
        )

    def _folders(self, path: str) -> None:
        """The folders on the way to it, from the guest root on."""
        root = self.ours.guest_root
        if not Path(path).is_relative_to(root) or ".." in Path(path).parts:
            return
        for folder in reversed(Path(path).parents):
            if str(folder) in self.found.folders or folder == root or not folder.is_relative_to(root):
                continue
            with suppress(OSError):
                self.found.folders[str(folder)] = self._needed(str(folder), folder.stat())


def _spread(named: Iterable[Named]) -> Iterator[Named]:
    """Folders as the files in them, and modules for a multiboot kernel (`-initrd "A words,B"`) as each of them."""
    for one in named:
        if one.folder:
            there = (Path(one.path) / name for name in TLS_FILES)
            yield from (Named(one.kind, str(path)) for path in there if path.exists())
        elif one.kind is FileKind.KERNEL and not Path(one.path).exists():
            modules = (piece.replace("\0", ",") for piece in one.path.replace(",,", "\0").split(","))
            yield from (Named(one.kind, module.partition(" ")[0]) for module in modules)
        else:
            yield one


def form(kind: FileKind, image_format: str | None, backing: str | None) -> str:
    """Which digest such a file has."""
    if kind is FileKind.SECRET:
        return digests.SECRET
    return digests.OVERLAY if image_format == "qcow2" and backing is not None else digests.PLAIN


def changed(needed: Iterable[NeededFile], ours: Settings) -> list[str]:
    """The backing files that are not what they were any more. What has not changed is not read again."""
    return [file.path for file in needed if file.kind is FileKind.BACKING and not _is_still(file, ours)]


def _is_still(file: NeededFile, ours: Settings) -> bool:
    try:
        return digests.equal(files.followed(Path(file.path)), file.digest, ours.directory)
    except (OSError, StepError):
        return False


def me() -> tuple[int, int]:
    """The worker's own user and group."""
    return os.geteuid(), os.getegid()
