"""Where, and as what, each disk of a guest is made on this host: by its own policy, and what an operator wants."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drover.errors import PreconditionFailed
from models.plan import Layout, PlannedDisk, SourceDisk
from workers.storage import devices, drivers
from workers.trust.policy import HostPolicy

Relative = Callable[[str], str]
"""A path below the guest root of the guest's host; raises `ValueError` for one outside."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One disk at the destination."""

    path: str
    in_place: bool
    """In the same place below the guest root, so that links lead to it as at the source."""
    device: bool
    volume_of: str | None
    """The storage in which it is to be made; None: it is there, or it is a file."""
    format: str
    create_options: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """One host, as the disks of one guest see it."""

    relative: Relative
    root: Path
    """This host's guest root."""
    folder: Path
    """Of the guest: a block device that has no place here becomes an image in it."""
    layout: Layout
    rules: HostPolicy

    def of(self, disk: SourceDisk, *, on_chain: bool) -> Target:
        """Where a disk goes, which its host has signed; `on_chain`: on backing files.

        Raises:
            PreconditionFailed: what is wanted cannot be had.
        """
        wanted = self.layout.of(disk.index)
        path, storage = self._place(disk)
        device = storage is not None or path.startswith("/dev/") or devices.is_one(Path(path))
        if storage is not None and os.path.realpath(path) in map(os.path.realpath, self.layout.overwrite):
            storage = None
        image_format = wanted.format or ("raw" if device and not disk.block_device else disk.format)
        if disk.key_secret is not None and (device or image_format != disk.format):
            raise PreconditionFailed(
                f"disk {disk.index} is encrypted, and stays an encrypted image file: name one with "
                f"`--disk {disk.index}=PATH`, and no other format"
            )
        if disk.bitmaps and image_format != "qcow2":
            raise PreconditionFailed(
                f"disk {disk.index} has persistent dirty bitmaps ({', '.join(disk.bitmaps)}), which only qcow2 holds: "
                "name no other format, or remove them first"
            )
        if on_chain and image_format != "qcow2":
            raise PreconditionFailed(
                f"disk {disk.index} lies on backing files: `--chain flatten` makes it {image_format}"
            )
        if on_chain and wanted.thick:
            raise PreconditionFailed(
                f"disk {disk.index} lies on backing files, and QEMU takes no room ahead for such an image: "
                "`--chain flatten`, or leave `--thick` out"
            )
        return Target(
            path=path,
            in_place=self._in_place(disk, path),
            device=device,
            volume_of=storage,
            format=image_format,
            create_options=_create_options(disk, image_format, thin=device or on_chain, thick=wanted.thick),
        )

    def _in_place(self, disk: SourceDisk, path: str) -> bool:
        try:
            return path == str(self.root / self.relative(disk.path))
        except ValueError:
            return False

    def _place(self, disk: SourceDisk) -> tuple[str, str | None]:
        """(path, the storage that makes a block device there)."""
        wanted = self.layout.of(disk.index)
        if wanted.path is not None:
            return wanted.path, _volume_of(wanted.path, self.rules)
        if wanted.storage is not None:
            return self._in_storage(disk, wanted.storage)
        try:
            path = str(self.root / self.relative(disk.path))
        except ValueError:
            path = disk.path
            if not disk.block_device:
                return str(self.folder / Path(path).name), None
        if not (disk.block_device and path.startswith("/dev/")):
            return path, None
        if self.rules.may_have(path):
            return path, _volume_of(path, self.rules)
        return str(self.folder / f"{drivers.volume_name(_name(path))}.img"), None

    def _in_storage(self, disk: SourceDisk, name: str) -> tuple[str, str | None]:
        storage = drivers.known(name, self.rules)
        if storage.driver == "folder":
            return str(Path(storage.place, self._below(disk))), None
        # A volume that goes from group to group, and back, keeps its name.
        called = Path(disk.path).name if disk.path.startswith("/dev/") else self._below(disk)
        return str(drivers.driver(name, self.rules).path(drivers.volume_name(called))), name

    def _below(self, disk: SourceDisk) -> str:
        """Where it lies below the guest root, or what it is called."""
        if not disk.path.startswith("/dev/"):
            with suppress(ValueError):
                return self.relative(disk.path)
        return _name(disk.path)


def changes(disks: Iterable[PlannedDisk]) -> Iterator[str]:
    """What an operator should know of disks that become something else, a sentence each."""
    for disk in disks:
        if disk.destination_device and disk.volume_of is None:
            yield f"what is on {disk.destination_path} is overwritten by disk {disk.index}"
        elif disk.source_device and not disk.destination_device:
            yield (
                f"disk {disk.index}, the block device {disk.source_path}, becomes the image file "
                f"{disk.destination_path}: `--disk {disk.index}=PATH` or `--storage NAME` names another place"
            )


def _volume_of(path: str, rules: HostPolicy) -> str | None:
    made_by = drivers.owner(Path(path), rules)
    return made_by.name if made_by is not None else None


def _name(path: str) -> str:
    """What a disk that lies outside of the guest root is called where it goes: `vg0/web` of `/dev/vg0/web`."""
    return path.removeprefix("/dev/") if path.startswith("/dev/") else Path(path).name


def _create_options(disk: SourceDisk, image_format: str, *, thin: bool, thick: bool | None) -> dict[str, str]:
    """`thin`: no room can be taken ahead, on a device and on backing files."""
    kept = disk.create_options.keys() if image_format == disk.format else {"preallocation"}
    options = {name: value for name, value in disk.create_options.items() if name in kept}
    if thick is not None or thin:
        options.pop("preallocation", None)
    return {**options, "preallocation": "falloc"} if thick and not thin else options
