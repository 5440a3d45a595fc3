"""What this host lets a guest be made of, as its administrator says in a file that only root can write.

Whatever the database or another host says, a guest is started here only within it. See docs/explanation/security.md.
"""

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, Strict, ValidationError, model_validator

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.contracts import Many, Part, first_fault
from models.storage import GUESTS
from workers.qemu.options import BRIDGE_HELPERS, IFDOWN, IFUP

SYSTEM_FOLDERS = tuple(
    Path("/", name)
    for name in [
        "bin",
        "boot",
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "usr",
        "var",
    ]
)
"""A folder above these, such as `/`, does not include them: name them, or what is below them, in so many words."""
USUAL_FOLDERS = tuple(
    Path("/", name)
    for name in (
        *("run/qemu", "run/qemu-server", "var/lib/guests", "var/lib/libvirt", "var/lib/qemu"),
        *("var/lib/vz", "var/log/libvirt", "var/log/qemu"),
    )
)
"""Of the system's folders those in which guests lie on many hosts: included where the guest root is `/`."""
RUNTIME = re.compile(r"/(?:var/)?run/[A-Za-z0-9_.-]+\.(?:qmp|sock|socket|pid)")
"""Likewise sockets and pidfiles right in `/run`."""
FIRMWARE = tuple(Path("/", name) for name in ("boot", "usr/lib", "usr/libexec", "usr/local/share", "usr/share"))
PROGRAMS = tuple(map(Path, (IFUP, IFDOWN, *BRIDGE_HELPERS)))
"""What QEMU starts by itself for a tap or a bridge."""
PUBLIC_KEY = re.compile("[A-Za-z0-9+/]{43}=")


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError("an absolute path without `..` is wanted")
    return path


def _key(text: str) -> str:
    if not PUBLIC_KEY.fullmatch(text):
        raise ValueError("the public key of a host is wanted, as `drover host key` shows it there")
    return text


Place = Annotated[Path, Strict(False), AfterValidator(_absolute)]
PublicKey = Annotated[str, AfterValidator(_key)]


class PolicyStorage(Part):
    """A place of this host in which images or volumes may be made, by its name."""

    model_config = ConfigDict(extra="forbid")

    driver: Literal["folder", "lvm", "hook"]
    """What makes them, see `workers.storage.drivers`."""
    place: str
    """A folder; a volume group, or `GROUP/POOL` for thin volumes; or the folder in which a hook's devices appear."""
    program: Place | None = None
    """The hook."""
    renames: bool = True
    """Its volumes can have other names: one that a guest has left gets another until its retention is over."""

    @property
    def devices(self) -> Path | None:
        """Below this path its block devices are."""
        if self.driver == "lvm":
            return Path("/dev", self.place.partition("/")[0])
        return Path(self.place) if self.driver == "hook" else None


class GuestCheck(Part):
    """How a guest's owner tells that it is well. One of the first three."""

    model_config = ConfigDict(extra="forbid")

    command: Place | None = None
    """A program, status 0 for well. It gets `DROVER_GUEST`, `DROVER_JOB`, `DROVER_SOURCE`, `DROVER_DESTINATION`."""
    tcp: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")] | None = None
    """`HOST:PORT` that takes connections."""
    http: Annotated[str, Field(pattern=r"^https?://[^/\s]+\S*$")] | None = None
    """An address that answers GET with a status below 400. No redirection is followed."""
    user: str | None = None
    """As whom the program runs; without it as the worker's."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """It is tried again until then."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.command, self.tcp, self.http)) != 1:
            raise ValueError("one of `command`, `tcp` and `http` is wanted")
        return self


class Policy(Part):
    """What the file may say. What it leaves out is as if there were no file."""

    model_config = ConfigDict(extra="forbid")

    qemu: Many[Place] | None = None
    """Programs that may run guests; without it every `qemu-system-*` and `qemu-kvm` on `PATH`."""
    folders: Many[Place] | None = None
    """Where images, sockets and logs of guests may lie; without it the guest root. Folders of the system, such as
    `/etc` and `/var`, are included only where they, or what is below them, are named in so many words."""
    read: Many[Place] = FIRMWARE
    """Further files and folders that a guest may be given to read: firmware, kernels."""
    programs: Many[Place] = PROGRAMS
    """What QEMU may start, for networks: `script=`, `downscript=` and `helper=`."""
    sockets: Many[Place] = ()
    """Unix sockets of other programs, and folders of such, that a guest may be connected to."""
    users: Many[str] = ("libvirt-qemu", "qemu")
    """As whom QEMU may run, besides root and the worker's own user."""
    bridges: Many[str] | None = None
    """Bridges that a guest with a tap by descriptor may be on; without it all of this host."""
    taps: Place | None = None
    """A program that opens macvtaps, and taps by descriptor that are no untagged ports of a Linux bridge, and hands
    over what it has opened, see `examples/taps`."""
    launcher: Place | None = None
    """A program that tells launchers other than systemd not to start a guest: `PROGRAM still GUEST` before the guest
    may leave this host, `PROGRAM again GUEST` if it stays after all."""
    hooks: Place | None = None
    """The folder of programs that run at certain points of a move; without it `hooks` beside this file."""
    hook_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds that each of them may take."""
    checks: dict[str, GuestCheck] = {}  # noqa: RUF012 - pydantic copies it
    """{guest: check}: what is tried here after a move of that guest to this host; `*` is for all others."""
    options: Many[str] = ()
    """Further options of QEMU, without their dash. Nobody looks at their values."""
    devices: Many[Place] = ()
    """Block devices, and folders of such, that a guest may have. One that nobody uses is overwritten by a move whose
    operator names it."""
    storages: dict[str, PolicyStorage] = {}  # noqa: RUF012 - pydantic copies it
    """Places, by name, in which `drover migrate --storage NAME` and mappings of storages make images and volumes."""
    hosts: dict[str, PublicKey] | None = None
    """{host: public key}. Without it the key of a host is believed when it is first seen, and then no other."""


def of(ours: Settings) -> "HostPolicy":
    """The policy of this host.

    Raises:
        PreconditionFailed: the file is not understood, or somebody else than root could have written it.
    """
    return HostPolicy(_file(ours.policy), ours)


def _file(path: Path) -> Policy:
    try:
        status = path.stat()
    except FileNotFoundError:
        return Policy()
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
        raise PreconditionFailed(f"{path} could be written by others than root: `chown root` it and `chmod 644` it")
    return _read(path, status.st_mtime_ns)


@cache
def _read(path: Path, _mtime_ns: int) -> Policy:
    try:
        return Policy.model_validate(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise PreconditionFailed(f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        raise PreconditionFailed(f"{path}: {first_fault(error)}") from error


class HostPolicy:
    """The file together with this host's settings: what may be where."""

    def __init__(self, file: Policy, ours: Settings) -> None:
        self.file = file
        self.name = str(ours.policy)
        self._own = (ours.directory.resolve(), ours.policy.resolve())
        everywhere = file.folders is None and ours.guest_root == Path("/")
        usual = (ours.guest_root, *USUAL_FOLDERS) if everywhere else (ours.guest_root,)
        kept = [Path(storage.place) for storage in file.storages.values() if storage.driver == "folder"]
        self.folders: tuple[Path, ...] = (*(usual if file.folders is None else file.folders), *kept)
        root = PolicyStorage(driver="folder", place=str(ours.guest_root))
        self.storages: dict[str, PolicyStorage] = {GUESTS: root, **file.storages}
        made = [storage.devices for storage in file.storages.values() if storage.devices is not None]
        self.devices: tuple[Path, ...] = (*file.devices, *made)
        self._runtime = RUNTIME if everywhere else None

    @property
    def options(self) -> Collection[str]:
        """Options of QEMU at whose values nobody looks."""
        return self.file.options

    @property
    def launcher(self) -> Path | None:
        """What tells launchers other than systemd not to start a guest."""
        return self.file.launcher

    @property
    def hooks(self) -> Path:
        """Where programs are that run at certain points of a move."""
        return self.file.hooks or Path(self.name).with_name("hooks")

    def may_connect(self, path: str) -> bool:
        """A guest may be connected to this socket."""
        return self._below(path, self.file.sockets)

    def may_name(self, user: str) -> bool:
        """QEMU may change to this user."""
        return user in {"root", *self.file.users}

    def may_run(self, program: str) -> bool:
        """A guest may be run by this program."""
        wanted = Path(program).resolve()
        return any(path.resolve() == wanted for path in self.qemus())

    def qemus(self) -> Iterable[Path]:
        """The programs that may run guests."""
        return _on_path() if self.file.qemu is None else self.file.qemu

    def may_start(self, program: str) -> bool:
        """QEMU may start this program."""
        return Path(program) in self.file.programs

    def may_write(self, path: str) -> bool:
        """A guest may have this file, folder, socket or block device, to read and to write."""
        if self.may_have(path):
            return True
        runtime = self._runtime is not None and self._runtime.fullmatch(path) is not None
        return self._below(path, (*self.folders, Path(path)) if runtime else self.folders)

    def may_have(self, path: str) -> bool:
        """A guest may have the block device that is, or will be made, at this path; a link of root's may lead to it."""
        written, meant = Path(path), Path(path).resolve()
        if not written.is_absolute() or ".." in written.parts:
            return False
        named = any(written.is_relative_to(device) for device in self.devices)
        if not meant.exists():
            return named
        real = {device.resolve() for device in self.devices}
        known = named or meant in real or any(meant.is_relative_to(device) for device in self.devices)
        return meant.is_block_device() and known and (named or _below(written, self.folders))

    def may_read(self, path: str) -> bool:
        """A guest may be given this to read."""
        return self._below(path, (*self.folders, *self.file.read))

    def may_join(self, bridge: str) -> bool:
        """A guest may be on this bridge."""
        return self.file.bridges is None or bridge in self.file.bridges

    def may_be(self, uid: int, name: str) -> bool:
        """A guest's QEMU may run as this user."""
        return uid in {0, os.geteuid()} or name in self.file.users

    def _below(self, path: str, folders: Sequence[Path]) -> bool:
        """As it is written, and where links lead: who made a link that leads out of a folder, nobody knows."""
        written, meant = Path(path), Path(path).resolve()
        if not written.is_absolute() or ".." in written.parts or any(meant.is_relative_to(own) for own in self._own):
            return False
        return _below(written, folders) and _below(meant, [folder.resolve() for folder in folders])


def _below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) and not _of_the_system(path, folder) for folder in folders)


def _of_the_system(path: Path, folder: Path) -> bool:
    """The path lies in a folder of the system that `folder` does not name in so many words."""
    below = (system for system in SYSTEM_FOLDERS if system != folder and system.is_relative_to(folder))
    return any(path.is_relative_to(system) for system in below)


def _on_path() -> Iterator[Path]:
    """Every QEMU that a command would find."""
    folders = [Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    for folder in (*folders, Path("/usr/libexec")):
        yield from folder.glob("qemu-system-*")
        yield from folder.glob("qemu-kvm")
