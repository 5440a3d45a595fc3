"""Image files: the only caller of qemu-img, and the record of what a job made here."""

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drover.errors import Fatal, PreconditionFailed
from workers import files
from workers.files import UnsafePath
from workers.process import processes
from workers.process.environment import handed_on

ENCRYPTION = ("cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg")
OPTIONS = {
    "cluster_size",
    "compat",
    "lazy_refcounts",
    "refcount_bits",
    "extended_l2",
    "compression_type",
    "preallocation",
    *ENCRYPTION,
    *(f"encrypt.{name}" for name in ("format", *ENCRYPTION)),
}
"""Of `qemu-img create`: those that `workers.qemu.disks` reads from an image. Others name files of this host, which are
then made, emptied or read: `backing_file`, `data_file`."""


OPENED = "/proc/self/fd/%d"
ALONE = f'json:{{"driver":"qcow2","backing":null,"file":{{"driver":"file","filename":"{OPENED}"}}}}'
"""An open file, and a qcow2 image in it without what it lies on."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """What opens an encrypted image."""

    secret: str
    """Id of the secret."""
    objects: Sequence[str]
    """The words that make it, and those by which it is encrypted: `--object=...`."""


def free_bytes(path: Path) -> int:
    """What an unprivileged user may still write on the file system that would hold `path`."""
    return shutil.disk_usage(existing_parent(path)).free


def existing_parent(path: Path) -> Path:
    """The nearest folder above that exists."""
    return next(parent for parent in path.parents if parent.is_dir())


def create(
    path: Path,
    image_format: str,
    size_bytes: int,
    options: Mapping[str, str],
    backing: tuple[str, str] | None = None,
    key: Key | None = None,
) -> None:
    """Make an empty image over the file at `path`, on a backing file (path, format) that need not be there yet.

    With a key it is encrypted.

    Raises:
        Fatal: qemu-img refused; the text has its message.
    """
    argv = ["create", "-q", "-f", image_format]
    for name, value in options.items():
        argv += ["-o", _option(name, value)]
    if key is not None:
        prefix = "" if image_format == "luks" else "encrypt."
        argv += [*key.objects, "-o", f"{prefix}key-secret={key.secret}"]
    if backing is not None:
        argv += ["-u", "-F", backing[1], "-b", backing[0]]
    made = _run(argv, path, os.O_RDWR, str(size_bytes))
    if made.returncode:
        raise Fatal(f"qemu-img could not create {path}: {made.stderr.strip()}")


def is_known(name: str, value: str) -> bool:
    """An image may be made with this option."""
    return name in OPTIONS and re.fullmatch(r"[A-Za-z0-9.-]+", value) is not None


def _option(name: str, value: str) -> str:
    """As `-o` takes it."""
    if not is_known(name, value):
        raise Fatal(f"the option {name}={value} of an image is none that Drover knows: nothing was made")
    return f"{name}={value}"


def _run(
    argv: Sequence[str], path: Path, flags: int, *after: str, named: str = OPENED, timeout_s: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """qemu-img on the very file that is at `path` now, whatever is put there meanwhile."""
    descriptor = files.opened(path, flags)
    try:
        return _qemu_img(*argv, named % descriptor, *after, descriptor=descriptor, timeout_s=timeout_s)
    finally:
        os.close(descriptor)


def _qemu_img(
    *argv: str, descriptor: int | None = None, timeout_s: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """`descriptor` is handed on."""
    return subprocess.run(
        ["qemu-img", *argv],
        env=handed_on(),
        pass_fds=[] if descriptor is None else [descriptor],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def measured(image_format: str, size_bytes: int, cluster_size: str | None) -> int:
    """Bytes of an image that holds all of a disk of this size.

    Raises:
        Fatal: qemu-img cannot tell.
    """
    options = [] if cluster_size is None else ["-o", f"cluster_size={cluster_size}"]
    told = _qemu_img("measure", "--output=json", "-O", image_format, *options, "--size", str(size_bytes))
    if told.returncode:
        raise Fatal(f"qemu-img cannot measure an image of {size_bytes} bytes: {told.stderr.strip()}")
    return int(json.loads(told.stdout)["fully-allocated"])


def put_on(descriptor: int, backing: str, backing_format: str) -> str | None:
    """Have the open qcow2 image name this backing file; why it could not be, if so."""
    argv = ("rebase", "-u", "-f", "qcow2", "-F", backing_format, "-b", backing, f"/proc/self/fd/{descriptor}")
    done = _qemu_img(*argv, descriptor=descriptor)
    return done.stderr.strip() if done.returncode else None


def only_a_disk(path: Path, image_format: str, size_bytes: int) -> bool:
    """Whether the image holds a guest's disk of this size, all of it, and nothing else: no snapshots, no bitmaps."""
    info = _info(path, image_format)
    specific = info.get("format-specific", {}).get("data", {})
    if info.get("virtual-size") != size_bytes:
        return False  # `size=` lets a guest see only a part of it
    return not any([info.get("snapshots"), info.get("encrypted"), specific.get("bitmaps"), specific.get("data-file")])


def data_bytes(path: Path, image_format: str, within_s: float) -> int | None:
    """What a copy of an image takes that lies on nothing: one whose clusters are compressed takes more than itself.
    None: that cannot be told, as of a block device, without its key, or in time, for qemu-img reads all of its tables.

    Raises:
        OSError, UnsafePath: it cannot be opened.
    """
    if image_format != "qcow2":
        there = path.stat()
        return None if stat.S_ISBLK(there.st_mode) else files.taken_bytes(there)
    measure = ["measure", "-U", "--output=json", "-O", "qcow2"]
    try:
        told = _run(measure, path, os.O_RDONLY, named=ALONE, timeout_s=within_s)
    except subprocess.TimeoutExpired:
        return None
    return int(json.loads(told.stdout)["required"]) if told.returncode == 0 else None


def virtual_size(path: Path, image_format: str) -> int | None:
    """Bytes that a guest would see; None when there is no such image."""
    size = _info(path, image_format).get("virtual-size")
    return None if size is None else int(size)


def is_encrypted(path: Path, image_format: str) -> bool:
    """It has an encryption header: qemu-img writes that at the end."""
    return bool(_info(path, image_format).get("encrypted"))


def _info(path: Path, image_format: str) -> dict[str, Any]:
    """What `qemu-img` tells of it; nothing when there is no such image."""
    try:
        told = _run(["info", "-U", "--output=json", "-f", image_format], path, os.O_RDONLY)
    except FileNotFoundError:
        return {}
    return dict(json.loads(told.stdout)) if told.returncode == 0 else {}


def fsync(paths: Sequence[str]) -> None:
    """Write out what the host's page cache holds of these files."""
    for path in paths:
        descriptor = files.opened(files.followed(Path(path)), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Manifest:
    """What one job created on this host, written down before it is created; nothing else is deleted.

    A file is ours if its inode is the one recorded, or if it is still empty: the worker died between
    making and recording it.
    """

    path: Path

    def claim(self, file: Path) -> None:
        """Make an empty file where none exists, and the folders above it.

        Raises:
            PreconditionFailed: a file is there already.
            UnsafePath: somebody else's link is on the way.
        """
        if self.owns(file):
            return
        folders = [str(parent) for parent in file.parents if not parent.exists()]
        self._record(made={str(file): None}, folders=folders)
        try:
            descriptor = files.opened(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, make_folders=True)
        except FileExistsError:
            self.forget(file)
            raise PreconditionFailed(in_the_way(file, self.path.parents[1])) from None
        try:
            self.put(file, os.fstat(descriptor).st_ino)
        finally:
            os.close(descriptor)

    def put(self, file: Path, inode: int) -> None:
        """A file of the job's is about to be there."""
        self._record(made={str(file): inode}, folders=[])

    def made_folder(self, folder: Path) -> None:
        """It is about to be made."""
        self._record(made={}, folders=[str(folder)])

    def files(self) -> list[Path]:
        """Those of the job that are still there."""
        return [path for name in self._read()["files"] if self.owns(path := Path(name))]

    def forget(self, file: Path) -> None:
        """It belongs to others, or is gone."""
        record = self._read()
        record["files"].pop(str(file), None)
        files.write_durably(self.path, json.dumps(record))

    def owns(self, file: Path) -> bool:
        """Whether this job made the file that is at this path now."""
        made = self._read()["files"]
        if str(file) not in made:
            return False
        try:
            status = files.status(file)
        except UnsafePath:
            return False
        if status is None or not stat.S_ISREG(status.st_mode):
            return False
        recorded = made[str(file)]
        empty_of_ours = status.st_size == 0 and status.st_uid == os.geteuid()
        return bool(status.st_ino == recorded or (recorded is None and empty_of_ours))

    def delete_all(self) -> None:
        """Remove what the job made, and nothing else."""
        record = self._read()
        for name in record["files"]:
            if self.owns(Path(name)):
                files.unlink(Path(name))
        for name in sorted(record["folders"], key=len, reverse=True):
            files.remove_if_empty(Path(name))
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, dict[str, int | None]]:
        if not self.path.exists():
            return {"files": {}, "folders": {}}
        document: dict[str, dict[str, int | None]] = json.loads(self.path.read_text())
        return document

    def _record(self, made: dict[str, int | None], folders: Sequence[str]) -> None:
        record = self._read()
        record["files"] |= made
        record["folders"] |= dict.fromkeys(folders)
        files.write_durably(self.path, json.dumps(record))


def in_the_way(file: Path, jobs: Path) -> str:
    """Why a file cannot be made, and what to do with the one that is there; `jobs` holds the directories of jobs."""
    for path in jobs.glob("*/created.json"):
        with suppress(OSError, ValueError):  # its job was cleaned up meanwhile, or a full disk cut it short
            if Manifest(path).owns(file):
                job = path.parent.name
                return (
                    f"{file} exists already and belongs to job {job}, leave it: `drover job show {job}` says how far "
                    "that is, and once it has ended `drover gc` removes what it left"
                )
    users = processes.having_open(file)
    if users:
        pids = ", ".join(str(user.pid) for user in users)
        return f"{file} exists already and is in use (pid {pids}), leave it: name another host"
    return f"{file} exists already: if no guest needs it, move it away"
