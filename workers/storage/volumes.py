"""The block devices that a job makes or takes on this host, written down before; no other is written to or removed."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from drover.errors import Fatal, PreconditionFailed
from workers.files import UnsafePath, write_durably
from workers.storage import devices, drivers
from workers.trust.policy import HostPolicy

APPEARS_WITHIN_S = 20.0
"""A device that was just made, by udev."""


class Entry(TypedDict):
    """What is written down of a device."""

    number: int | None
    """`st_rdev`; None: it was about to be made."""
    storage: str | None
    """In which the job makes it; None: it was there before, and stays."""


@dataclass(frozen=True)
class Volumes:
    """The record of one job, in a file of the worker's own."""

    file: Path

    def read(self) -> dict[str, Entry]:
        """{path: entry}; empty if there is no record."""
        try:
            known: dict[str, Entry] = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}
        return known

    def owns(self, path: Path) -> bool:
        """Whether the device at this path is the one that the job made or took."""
        entry = self.read().get(str(path))
        try:
            there = devices.status(path) if entry is not None else None
        except UnsafePath:
            return False
        return entry is not None and there is not None and there.st_rdev == entry["number"]

    def made(self) -> Iterator[Path]:
        """The devices that the job made and that are still there."""
        for name, entry in self.read().items():
            if entry["storage"] is not None and (self.owns(Path(name)) or self._half_made(Path(name), entry)):
                yield Path(name)

    @staticmethod
    def _half_made(path: Path, entry: Entry) -> bool:
        """Its worker died between making and recording it: there was none of that name before."""
        return entry["number"] is None and devices.is_one(path)

    def take(self, path: Path) -> None:
        """Write down a device that is there and may be overwritten."""
        self._record(path, Entry(number=_number(path), storage=None))

    def make(self, path: Path, size_bytes: int, storage: str, rules: HostPolicy) -> None:
        """Make a volume in a storage of this host.

        Raises:
            PreconditionFailed: one of that name is there already.
            Fatal: it could not be made, or did not appear.
        """
        if self.owns(path):
            return
        entry = self.read().get(str(path))
        if entry is None or not self._half_made(path, entry):
            if path.is_symlink() or path.exists():
                raise PreconditionFailed(
                    f"{path} exists already, and was left as it is: if nobody needs what is on it, move the guest with "
                    f"`--overwrite-device {path}`"
                )
            self._record(path, Entry(number=None, storage=storage))
            drivers.driver(storage, rules).create(path.name, size_bytes)
        _wait_for(path)
        self._record(path, Entry(number=_number(path), storage=storage))

    def remove(self, path: Path, rules: HostPolicy) -> None:
        """Remove a volume that the job made; any other stays."""
        if path in set(self.made()):
            drivers.driver(str(self.read()[str(path)]["storage"]), rules).remove(path.name)

    def delete_all(self, rules: HostPolicy) -> None:
        """Remove all that the job made; what was there before is left as it is now."""
        for path in list(self.made()):
            self.remove(path, rules)
        self.file.unlink(missing_ok=True)

    def let_go(self) -> list[Path]:
        """None is the job's any more; returns those that are there, and stay."""
        left = [Path(name) for name in self.read() if self.owns(Path(name))]
        self.file.unlink(missing_ok=True)
        return left

    def _record(self, path: Path, entry: Entry) -> None:
        write_durably(self.file, json.dumps(self.read() | {str(path): entry}))


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + APPEARS_WITHIN_S
    while not devices.is_one(path):
        if time.monotonic() > deadline:
            raise Fatal(f"{path} was made, but no block device appeared there within {APPEARS_WITHIN_S:g} s")
        time.sleep(0.02)


def _number(path: Path) -> int:
    there = devices.status(path)
    if there is None:
        raise PreconditionFailed(f"there is no block device {path} any more")
    return there.st_rdev
