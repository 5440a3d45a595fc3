"""Beside the heartbeat: what room is left on this host, what its guests' images take, and which guests are gone.

All of it is read from the kernel, so that no guest's QEMU has to answer.
"""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from drover import words
from drover.settings import Settings
from models.database import transaction
from models.guest import Guest
from models.storage import Storage, is_low
from workers import files
from workers.process import processes
from workers.process.processes import Process
from workers.storage import room
from workers.storage.places import Place, places
from workers.trust import policy

log = logging.getLogger(__name__)

STEP_BYTES = 16 << 20
"""A guest's row is written anew once its images take so much more or less."""
IN_MEMORY = ("/dev/shm/", "/dev/hugepages/", "/run/", "/tmp/qemu")  # noqa: S108 # nosec B108 # looked at, never written
_low: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A guest's QEMU, as the kernel shows it."""

    gone: bool
    images: dict[Path, int]
    """{path: bytes that it takes}"""


def look(ours: Settings) -> None:
    """Write down what the storages have left and what this host's guests take."""
    with transaction() as session:
        guests = session.scalars(select(Guest).where(Guest.host == ours.host)).all()
    seen = {guest.name: found for guest in guests if (found := _seen(guest)) is not None}
    images = [path for found in seen.values() for path in found.images]
    _report_storages(ours, places(policy.of(ours), [*images, *room.arriving_images(ours)]))
    for guest in guests:
        if guest.name in seen:
            _report_guest(guest, seen[guest.name])


def _seen(guest: Guest) -> _Seen | None:
    """None where nothing can be said of it."""
    process = processes.identified(guest.process)
    if process is None or (not process.alive and _somebody_listens(guest.qmp)):
        return None
    return _Seen(gone=not process.alive, images=dict(_images(process)))


def _somebody_listens(socket: str) -> bool:
    """At the guest's monitor: its QEMU was started anew, and nobody has said so yet. Connects to nothing."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    return any(line.endswith(f" {socket}") for line in lines)


def _images(process: Process) -> Iterator[tuple[Path, int]]:
    """The files that it has open for writing, but for what is in memory or deleted."""
    folder = Path(f"/proc/{process.pid}/fd")
    if not process.alive:
        return
    for entry in list(folder.iterdir()):
        with suppress(OSError):  # closed meanwhile
            there, path = entry.stat(), entry.readlink()
            written = stat.S_ISREG(there.st_mode) and there.st_nlink and os.lstat(entry).st_mode & stat.S_IWUSR
            if written and not str(path).startswith(IN_MEMORY):
                yield path, files.taken_bytes(there)


def _report_guest(guest: Guest, seen: _Seen) -> None:
    allocated = sum(seen.images.values()) if not seen.gone else guest.allocated_bytes
    if allocated is not None and guest.allocated_bytes is not None:
        allocated = allocated if abs(allocated - guest.allocated_bytes) >= STEP_BYTES else guest.allocated_bytes
    if (allocated, seen.gone) == (guest.allocated_bytes, guest.gone_at is not None):
        return
    if seen.gone and guest.gone_at is None:
        log.warning("its QEMU is gone: it counts for no room here any more", extra={"guest": guest.name})
    same = (Guest.name == guest.name) & (Guest.host == guest.host) & (Guest.process == guest.process)
    gone_at = func.coalesce(Guest.gone_at, func.clock_timestamp()) if seen.gone else None
    with transaction() as session:
        session.execute(update(Guest).where(same).values(allocated_bytes=allocated, gone_at=gone_at))


def _report_storages(ours: Settings, found: list[Place]) -> None:
    with transaction() as session:
        for place in found:
            row = {**vars(place), "seen_at": func.clock_timestamp()}
            statement = insert(Storage).values(host=ours.host, **row)
            session.execute(statement.on_conflict_do_update(index_elements=["host", "name"], set_=row))
    for place in found:
        _say(place)


def _say(place: Place) -> None:
    """Once when it gets low, and once when it is well again."""
    low = is_low(place.total_bytes, place.free_bytes)
    if low and place.name not in _low:
        log.warning(
            "the storage %s (%s) has only %s left: make room before guests that write there have to stop",
            place.name,
            place.place,
            words.size(place.free_bytes or 0),
        )
        _low.add(place.name)
    elif not low and place.name in _low:
        log.info("the storage %s (%s) has room again", place.name, place.place)
        _low.discard(place.name)
