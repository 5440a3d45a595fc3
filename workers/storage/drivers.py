"""What makes images and volumes in a storage of this host: a class per kind, with nothing but these few methods.

Which storages there are says the host's own policy, see `workers.trust.policy.PolicyStorage`: no row decides it.
"""

import re
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from drover.errors import Fatal, PreconditionFailed
from workers.process.environment import handed_on
from workers.trust.policy import HostPolicy, PolicyStorage

TIMEOUT_S = 120
NAMED = re.compile(r"[A-Za-z0-9_.+-]{1,120}")


class VolumeDriver(ABC):
    """Makes block devices. Names are letters, digits, `_`, `.`, `+` and dashes."""

    def __init__(self, name: str, storage: PolicyStorage) -> None:
        self.name, self.storage, self.renames = name, storage, storage.renames
        self.thin = False
        """Its volumes take what is written to them, not their size."""

    @abstractmethod
    def path(self, volume: str) -> Path:
        """Where a volume of this name is, or would be. Runs nothing."""

    @abstractmethod
    def create(self, volume: str, size_bytes: int) -> None:
        """Make a volume that holds at least so many bytes. It must not be there.

        Raises:
            Fatal: it could not be made; the text has the reason.
        """

    @abstractmethod
    def remove(self, volume: str) -> None:
        """Delete a volume. If it does not exist, nothing happens. Errors as for `create`."""

    @abstractmethod
    def rename(self, volume: str, new: str) -> None:
        """Give a volume another name, where `renames`. Errors as for `create`."""

    @abstractmethod
    def room(self) -> tuple[int, int] | None:
        """(all bytes, free bytes); None: not known."""

    def takes(self, size_bytes: int) -> int:
        """What a volume of this size takes of the room."""
        return size_bytes


class Lvm(VolumeDriver):
    """Logical volumes by `lvcreate`, of a group, or thin ones of a pool in it."""

    def __init__(self, name: str, storage: PolicyStorage) -> None:
        super().__init__(name, storage)
        self.group, _, self.pool = storage.place.partition("/")
        self.thin = bool(self.pool)

    def path(self, volume: str) -> Path:
        return Path("/dev", self.group, volume)

    def create(self, volume: str, size_bytes: int) -> None:
        size = f"{size_bytes}b"
        if self.pool:
            kind = ["--virtualsize", size, "--thinpool", self.pool]
        else:
            kind = ["--size", size, "--wipesignatures", "n"]
        _run("lvcreate", "--yes", "--quiet", *kind, "--name", volume, "--addtag", "drover", self.group)

    def remove(self, volume: str) -> None:
        if self.path(volume).exists():
            _run("lvremove", "--yes", "--quiet", f"{self.group}/{volume}")

    def rename(self, volume: str, new: str) -> None:
        _run("lvrename", "--quiet", self.group, volume, new)

    def room(self) -> tuple[int, int] | None:
        if self.pool:
            size, percent = _told("lvs", "lv_size,data_percent", f"{self.group}/{self.pool}")
            return int(size), int(int(size) * (100 - float(percent)) / 100)
        total, free = _told("vgs", "vg_size,vg_free", self.group)
        return int(total), int(free)

    def takes(self, size_bytes: int) -> int:
        """Whole extents."""
        [extent] = map(int, _told("vgs", "vg_extent_size", self.group))
        return -(-size_bytes // extent) * extent


class Hook(VolumeDriver):
    """A program of the operator's: `PROGRAM create NAME BYTES`, `remove NAME`, `rename NAME NEW`, `room`.

    Its volumes appear as `PLACE/NAME`. It exits with 0, or prints the reason on stderr. `rename` is not called where
    the policy says `renames = false`; `room` prints all bytes and free bytes, or nothing.
    """

    def path(self, volume: str) -> Path:
        return Path(self.storage.place, volume)

    def create(self, volume: str, size_bytes: int) -> None:
        _run(self._program, "create", volume, str(size_bytes))

    def remove(self, volume: str) -> None:
        _run(self._program, "remove", volume)

    def rename(self, volume: str, new: str) -> None:
        _run(self._program, "rename", volume, new)

    def room(self) -> tuple[int, int] | None:
        told = _run(self._program, "room").split()
        return (int(told[0]), int(told[1])) if len(told) == 2 else None

    @property
    def _program(self) -> str:
        if self.storage.program is None:
            raise Fatal(f"the storage {self.name} has no `program` in this host's policy")
        return str(self.storage.program)


DRIVERS: dict[str, type[VolumeDriver]] = {"lvm": Lvm, "hook": Hook}


def driver(name: str, rules: HostPolicy) -> VolumeDriver:
    """What makes volumes in this storage.

    Raises:
        PreconditionFailed: this host has no such storage, or it is a folder.
    """
    storage = known(name, rules)
    if storage.driver not in DRIVERS:
        raise PreconditionFailed(f"the storage {name} is a folder: it has images, no volumes")
    return DRIVERS[storage.driver](name, storage)


def known(name: str, rules: HostPolicy) -> PolicyStorage:
    """A storage of this host by its name.

    Raises:
        PreconditionFailed: there is none.
    """
    storage = rules.storages.get(name)
    if storage is None:
        raise PreconditionFailed(
            f"there is no storage {name!r}: there are {', '.join(rules.storages)}, see `storages` in {rules.name} there"
        )
    return storage


def owner(path: Path, rules: HostPolicy) -> VolumeDriver | None:
    """The driver that makes volumes where this block device is."""
    for name, storage in rules.storages.items():
        if storage.driver in DRIVERS and path.parent == storage.devices:
            return DRIVERS[storage.driver](name, storage)
    return None


def volume_name(relative: str) -> str:
    """`web/disk0.qcow2` becomes `web-disk0.qcow2`.

    Raises:
        PreconditionFailed: no volume can be called so.
    """
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", relative.strip("/").replace("/", "-")).lstrip("-.")
    if not NAMED.fullmatch(name):
        raise PreconditionFailed(f"no volume can be called like {relative!r}: name its path")
    return name


def _told(program: str, columns: str, of: str) -> list[str]:
    """What `vgs` or `lvs` says, in bytes."""
    units = ("--noheadings", "--nosuffix", "--units", "b", "--separator", " ")
    return _run(program, *units, "-o", columns, of).split()


def _run(*argv: str) -> str:
    try:
        done = subprocess.run(argv, env=handed_on(), capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except FileNotFoundError as error:
        raise Fatal(f"there is no {argv[0]} on this host: install it") from error
    except OSError as error:
        raise Fatal(f"{argv[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Fatal(f"{' '.join(argv)} did not end within {TIMEOUT_S} s") from error
    if done.returncode:
        raise Fatal(f"{' '.join(argv)} failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
