"""The storages of this host: its guest root, those of its policy, and further file systems that images lie on."""

import logging
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drover.errors import Fatal
from models.storage import FILESYSTEM
from workers.images.manifest import existing_parent
from workers.storage import drivers
from workers.trust.policy import HostPolicy, PolicyStorage

log = logging.getLogger(__name__)

FOLDER = "folder"
ASKED_EVERY_S = 30
"""A program is asked for the room of its storage this often."""
_rooms: dict[str, tuple[float, tuple[int, int] | None]] = {}


@dataclass(frozen=True, kw_only=True)
class Place:
    """One storage, as it is reported."""

    name: str
    driver: str
    place: str
    total_bytes: int | None = None
    free_bytes: int | None = None


def places(rules: HostPolicy, images: Iterable[Path]) -> list[Place]:
    """All of them; `images` are those that guests have, or that are being made."""
    found = [_place(name, storage, rules) for name, storage in rules.storages.items()]
    known = {_filesystem(Path(storage.place)) for storage in rules.storages.values() if storage.driver == FOLDER}
    for image in images:
        folder = existing_parent(image)
        if (device := folder.stat().st_dev) not in known:
            mounted = mount_point(folder)
            found.append(_folder(name_of(mounted), FILESYSTEM, mounted))
            known.add(device)
    return found


def total_bytes(rules: HostPolicy) -> int:
    """What the storages of this host's policy and its guest root hold; a file system counts once."""
    volumes = [
        _place(name, one, rules).total_bytes or 0 for name, one in rules.storages.items() if one.driver != FOLDER
    ]
    folders = {_filesystem(Path(one.place)): Path(one.place) for one in rules.storages.values() if one.driver == FOLDER}
    return sum(volumes) + sum(_folder("", FOLDER, folder).total_bytes or 0 for folder in folders.values())


def _place(name: str, storage: PolicyStorage, rules: HostPolicy) -> Place:
    if storage.driver == FOLDER:
        return _folder(name, FOLDER, Path(storage.place))
    try:
        room = _room(name, rules)
    except Fatal as error:
        log.warning("the storage %s cannot be asked for its room: %s", name, error)
        room = None
    total, free = room or (None, None)
    return Place(name=name, driver=storage.driver, place=str(storage.devices), total_bytes=total, free_bytes=free)


def _room(name: str, rules: HostPolicy) -> tuple[int, int] | None:
    asked_at, room = _rooms.get(name, (-float(ASKED_EVERY_S), None))
    if time.monotonic() - asked_at >= ASKED_EVERY_S:
        room = drivers.driver(name, rules).room()
        _rooms[name] = time.monotonic(), room
    return room


def _filesystem(folder: Path) -> int:
    return existing_parent(folder / "image").stat().st_dev


def _folder(name: str, driver: str, shown: Path) -> Place:
    there = os.statvfs(existing_parent(shown / "image"))
    total, free = there.f_blocks * there.f_frsize, there.f_bavail * there.f_frsize
    return Place(name=name, driver=driver, place=str(shown), total_bytes=total, free_bytes=free)


def mount_point(folder: Path) -> Path:
    """The topmost folder of its file system."""
    device = folder.stat().st_dev
    while folder != folder.parent and folder.parent.stat().st_dev == device:
        folder = folder.parent
    return folder


def name_of(mounted: Path) -> str:
    """`/srv/images` is called `srv-images`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", str(mounted)).strip("-.")[-63:].lstrip("-.") or "root"
