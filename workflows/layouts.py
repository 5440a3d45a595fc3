"""Where the disks of a guest go: what an operator wants of this move, then what is mapped for its storages."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select

from drover.errors import PreconditionFailed
from models.database import transaction
from models.plan import DiskLayout, Inspection, Layout, SourceDisk
from models.storage import FILESYSTEM, Storage, StorageMapping, holding

ANY = "any"
"""Instead of a storage's name: the one of the destination with the most room."""


def effective(source: str, destination: str, inspection: Inspection, wanted: Layout) -> Layout:
    """The layout with mappings applied to all that it leaves open, and one storage named where it names several.

    Raises:
        PreconditionFailed: it names a disk or a storage that is not there, or two places for one disk.
    """
    named = [disk.index for disk in wanted.disks]
    if twice := [disk.index for disk in wanted.disks if named.count(disk.index) > 1 or (disk.path and disk.storage)]:
        raise PreconditionFailed(f"disk {twice[0]} is named with two places: give its path or its storage, once")
    known = {disk.index for disk in inspection.disks}
    if unknown := [disk.index for disk in wanted.disks if disk.index not in known]:
        there = ", ".join(f"{disk.index} ({disk.path})" for disk in inspection.disks)
        raise PreconditionFailed(f"the guest has no disk {unknown[0]}: it has {there}")
    with transaction() as session:
        at_source = session.scalars(select(Storage).where(Storage.host == source)).all()
        rows = session.scalars(select(Storage).where(Storage.host == destination, Storage.driver != FILESYSTEM))
        free = {row.name: row.free_bytes for row in rows if row.free_bytes is not None}
        ways = (StorageMapping.host == source) & (StorageMapping.destination == destination)
        mapped = {row.storage: row for row in session.scalars(select(StorageMapping).where(ways))}
    disks = []
    for disk in inspection.disks:
        own = _mapped(wanted.of(disk.index), disk, at_source, mapped)
        if own.storage is not None:
            name = _chosen(own.storage, free, destination)
            own = own.model_copy(update={"storage": name})
            takes = disk.virtual_size_bytes if disk.allocated_bytes is None else disk.allocated_bytes
            free |= {name: free[name] - takes} if name in free else {}
        disks.append(own)
    plain = [DiskLayout(index=disk.index) for disk in disks]
    return Layout(disks=tuple(disks) if disks != plain else (), overwrite=wanted.overwrite)


def _mapped(
    own: DiskLayout, disk: SourceDisk, at_source: Sequence[Storage], mapped: dict[str, StorageMapping]
) -> DiskLayout:
    """What is mapped counts only where nothing was said of this disk's place."""
    there = holding(at_source, disk.path)
    row = mapped.get(there.name) if there is not None else None
    if row is None or own.path is not None or own.storage is not None:
        return own
    return own.model_copy(
        update={
            "storage": row.destination_storage,
            "format": own.format or row.format,
            "thick": own.thick if own.thick is not None else (True if row.thick else None),
        }
    )


def _chosen(names: str, free: Mapping[str, int], destination: str) -> str:
    """Of several names, by commas, or of any, the storage with the most room, beside the guest's other disks; a single
    name is the host's matter.
    """
    if names != ANY and "," not in names:
        return names
    found = free.keys() if names == ANY else free.keys() & {name.strip() for name in names.split(",")}
    if not found:
        raise PreconditionFailed(
            f"{destination} reports none of the storages {names}: see `drover storage list`, or name a path"
        )
    return max(found, key=lambda name: (free[name], name))
