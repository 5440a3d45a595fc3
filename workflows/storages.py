"""What operators say of storages: how far they may be over-committed, and where their disks go."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, select, tuple_
from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from models import decision_log
from models.controller import wake
from models.database import transaction
from models.host import Host
from models.storage import MOST_THIN_FACTOR, Storage, StorageMapping
from workflows import layouts
from workflows.hosts import existing

GONE_FOR = timedelta(days=1)
"""After this time a storage that is not there any more is forgotten."""


def gone() -> ColumnElement[bool]:
    """Storages that their host does not report any more, while its worker runs."""
    beat = select(Host.heartbeat_at).where(Host.name == Storage.host).scalar_subquery()
    return Storage.seen_at < beat - GONE_FOR


def forget_gone(session: Session) -> None:
    """Delete their rows. A host may hold its own locked: these wait."""
    free = select(Storage.host, Storage.name).where(gone()).with_for_update(skip_locked=True)
    session.execute(delete(Storage).where(tuple_(Storage.host, Storage.name).in_(free)))


def describe(host: str, name: str, thin_factor: float) -> Storage:
    """Set how far a storage may be over-committed.

    Raises:
        PreconditionFailed: there is no such host or storage, or the factor is out of range.
    """
    if not 1 <= thin_factor <= MOST_THIN_FACTOR:
        raise PreconditionFailed(f"thin-factor cannot be {thin_factor:g}: allowed is 1 to {MOST_THIN_FACTOR:g}")
    with transaction() as session:
        existing(session, host)
        storage = session.get(Storage, (host, name))
        if storage is None:
            _known(session, host, [name])
            raise PreconditionFailed(f"{host} has no storage {name!r} any more")
        storage.thin_factor = thin_factor
        decision_log.add(session, f"an operator set the thin factor of {name} on {host} to {thin_factor:g}")
        wake(session)
    return storage


def map_to(
    host: str, storage: str, destination: str, there: str, *, image_format: str | None, thick: bool
) -> StorageMapping:
    """Have disks that lie in a storage of `host` made in another one at the destination, whoever moves them.

    Raises:
        PreconditionFailed: a host or a storage is not there, or the format is none that images can have.
    """
    if image_format not in {None, "raw", "qcow2"}:
        raise PreconditionFailed(f"images cannot be made as {image_format}: write raw or qcow2")
    if host == destination:
        raise PreconditionFailed(f"{host} cannot be mapped to itself: name another host")
    with transaction() as session:
        for name in (host, destination):
            existing(session, name)
        _known(session, host, [storage])
        if there != layouts.ANY:
            _known(session, destination, there.split(","))
        row = session.get(StorageMapping, (host, storage, destination))
        row = row or StorageMapping(host=host, storage=storage, destination=destination)
        row.destination_storage, row.format, row.thick = there, image_format, thick
        session.add(row)
        decision_log.add(session, f"an operator mapped {storage} of {host} to {there} of {destination}")
    return row


def unmap(host: str, storage: str, destination: str) -> StorageMapping:
    """Delete a mapping.

    Raises:
        PreconditionFailed: there is none.
    """
    with transaction() as session:
        row = session.get(StorageMapping, (host, storage, destination))
        if row is None:
            raise PreconditionFailed(f"{storage} of {host} is not mapped to {destination}: see `drover storage list`")
        session.delete(row)
        decision_log.add(session, f"an operator deleted the mapping of {storage} of {host} to {destination}")
    return row


def _known(session: Session, host: str, names: Sequence[str]) -> None:
    there = session.scalars(select(Storage.name).where(Storage.host == host).order_by(Storage.name)).all()
    for name in names:
        if name.strip() not in there:
            raise PreconditionFailed(
                f"{host} has no storage {name.strip()!r}: its worker reports {', '.join(there) or 'none yet'}"
            )
