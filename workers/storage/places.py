"""The storages of this host: its guest root, and every other file system that images of guests lie on."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drover.settings import Settings
from models.storage import GUESTS
from workers.images.manifest import existing_parent

FOLDER = "folder"


@dataclass(frozen=True, kw_only=True)
class Place:
    """One storage, as it is reported."""

    name: str
    driver: str
    place: str
    total_bytes: int | None = None
    free_bytes: int | None = None


def places(ours: Settings, images: Iterable[Path]) -> list[Place]:
    """All of them; `images` are those that guests have, or that are being made."""
    root = existing_parent(ours.guest_root / "guest")
    found = {root.stat().st_dev: _folder(GUESTS, root, ours.guest_root)}
    for image in images:
        folder = existing_parent(image)
        device = folder.stat().st_dev
        if device not in found:
            mounted = mount_point(folder)
            found[device] = _folder(name_of(mounted), mounted, mounted)
    return list(found.values())


def _folder(name: str, inside: Path, shown: Path) -> Place:
    there = os.statvfs(inside)
    total, free = there.f_blocks * there.f_frsize, there.f_bavail * there.f_frsize
    return Place(name=name, driver=FOLDER, place=str(shown), total_bytes=total, free_bytes=free)


def mount_point(folder: Path) -> Path:
    """The topmost folder of its file system."""
    device = folder.stat().st_dev
    while folder != folder.parent and folder.parent.stat().st_dev == device:
        folder = folder.parent
    return folder


def name_of(mounted: Path) -> str:
    """`/srv/images` is called `srv-images`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", str(mounted)).strip("-.")[-63:].lstrip("-.") or "root"
