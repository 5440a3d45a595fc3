"""Image files: the only caller of qemu-img, and the record of what a job made here."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drover.errors import Fatal, PreconditionFailed
from workers import processes
from workers.environment import handed_on


def free_bytes(path: Path) -> int:
    """What an unprivileged user may still write on the file system that would hold `path`."""
    return shutil.disk_usage(existing_parent(path)).free


def existing_parent(path: Path) -> Path:
    """The nearest folder above that exists."""
    return next(parent for parent in path.parents if parent.is_dir())


def create(path: Path, image_format: str, size_bytes: int, options: Mapping[str, str]) -> None:
    """Make an empty image over the file at `path`.

    Raises:
        Fatal: qemu-img refused; the text has its message.
    """
    argv = ["qemu-img", "create", "-q", "-f", image_format]
    for key, value in options.items():
        argv += ["-o", f"{key}={value}"]
    made = subprocess.run(
        [*argv, str(path), str(size_bytes)], env=handed_on(), capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise Fatal(f"qemu-img could not create {path}: {made.stderr.strip()}")


def virtual_size(path: Path, image_format: str) -> int | None:
    """Bytes that a guest would see; None when there is no such image."""
    argv = ["qemu-img", "info", "-U", "--output=json", "-f", image_format, str(path)]
    told = subprocess.run(argv, env=handed_on(), capture_output=True, text=True, check=False)
    return int(json.loads(told.stdout)["virtual-size"]) if told.returncode == 0 else None


def fsync(paths: Sequence[str]) -> None:
    """Write out what the host's page cache holds of these files."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
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
        """
        if self.owns(file):
            return
        folders = [str(parent) for parent in file.parents if not parent.exists()]
        self._record(files={str(file): None}, folders=folders)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            self._forget(file)
            raise PreconditionFailed(in_the_way(file, self.path.parents[1])) from None
        self._record(files={str(file): os.fstat(descriptor).st_ino}, folders=[])
        os.close(descriptor)

    def owns(self, file: Path) -> bool:
        """Whether this job made the file that is at this path now."""
        files = self._read()["files"]
        if str(file) not in files or not file.exists():
            return False
        status = file.stat()
        recorded = files[str(file)]
        return bool(status.st_ino == recorded or (recorded is None and status.st_size == 0))

    def delete_all(self) -> None:
        """Remove what the job made, and nothing else."""
        record = self._read()
        for name in record["files"]:
            if self.owns(Path(name)):
                Path(name).unlink()
        for name in sorted(record["folders"], key=len, reverse=True):
            folder = Path(name)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, dict[str, int | None]]:
        if not self.path.exists():
            return {"files": {}, "folders": {}}
        document: dict[str, dict[str, int | None]] = json.loads(self.path.read_text())
        return document

    def _record(self, files: dict[str, int | None], folders: Sequence[str]) -> None:
        record = self._read()
        record["files"] |= files
        record["folders"] |= dict.fromkeys(folders)
        write_durably(self.path, json.dumps(record))

    def _forget(self, file: Path) -> None:
        record = self._read()
        del record["files"][str(file)]
        write_durably(self.path, json.dumps(record))


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


def write_durably(path: Path, text: str) -> None:
    """Replace a small file so that after a crash either the old or the new content is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.chmod(0o600)
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and new files in a folder survive a crash of the host."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
