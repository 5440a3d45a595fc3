"""How storages are shown, as text or as JSON."""

from sqlalchemy import select

from drover import words
from drover.cli import output
from drover.views.serializers import iso
from models.base import Document
from models.database import transaction
from models.host import Host
from models.storage import Storage, StorageMapping
from workflows import hosts
from workflows.selectors import Selector


def listed(selector: str | None, *, as_json: bool) -> None:
    """Print a line for each storage."""
    meant = select(Host.name).where(hosts.selected(Selector.read(selector)))
    with transaction() as session:
        rows = session.scalars(
            select(Storage).where(Storage.host.in_(meant)).order_by(Storage.host, Storage.name)
        ).all()
        order = (StorageMapping.host, StorageMapping.storage, StorageMapping.destination)
        mappings = session.scalars(select(StorageMapping).where(StorageMapping.host.in_(meant)).order_by(*order)).all()
    if as_json:
        output.emit(
            {
                "storages": [document(row) for row in rows],
                "mappings": [mapping_document(row) for row in mappings],
            }
        )
        return
    if not rows:
        output.note("no storage yet: a host's worker reports them within seconds after its start")
    output.table(
        ("HOST", "STORAGE", "DRIVER", "PLACE", "SIZE", "FREE", "THIN FACTOR", "STATE"),
        [
            (
                row.host,
                row.name,
                row.driver,
                row.place,
                _size(row.total_bytes),
                _size(row.free_bytes),
                f"{row.thin_factor:g}",
                "low" if row.low else "ok",
            )
            for row in rows
        ],
    )
    for mapping in mappings:
        output.say(_sentence(mapping))


def described(storage: Storage, *, as_json: bool) -> None:
    """Print what was set."""
    if as_json:
        output.emit(document(storage))
    else:
        factor = f"{storage.thin_factor:g}"
        output.say(f"{storage.name} of {storage.host}: of what thin disks have not written, 1/{factor} counts")


def document(storage: Storage) -> Document:
    """One storage."""
    return {
        "host": storage.host,
        "name": storage.name,
        "driver": storage.driver,
        "place": storage.place,
        "total_bytes": storage.total_bytes,
        "free_bytes": storage.free_bytes,
        "low": storage.low,
        "thin_factor": storage.thin_factor,
        "seen_at": iso(storage.seen_at),
    }


def _size(count: int | None) -> str:
    return "" if count is None else words.size(count)


def mapped(row: StorageMapping, *, as_json: bool) -> None:
    """Print a mapping."""
    if as_json:
        output.emit(mapping_document(row))
    else:
        output.say(_sentence(row))


def unmapped(row: StorageMapping, *, as_json: bool) -> None:
    """Print what was deleted."""
    if as_json:
        output.emit({**mapping_document(row), "deleted": True})
    else:
        output.say(f"{row.storage} of {row.host} is not mapped to {row.destination} any more")


def mapping_document(row: StorageMapping) -> Document:
    """One mapping."""
    names = ("host", "storage", "destination", "destination_storage", "format", "thick")
    return {name: getattr(row, name) for name in names}


def _sentence(row: StorageMapping) -> str:
    how = "".join([f", as {row.format}" if row.format else "", ", thick" if row.thick else ""])
    return f"{row.storage} of {row.host} goes to {row.destination_storage} of {row.destination}{how}"
