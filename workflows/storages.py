"""What operators say of storages: how far they may be over-committed."""

from sqlalchemy import select

from drover.errors import PreconditionFailed
from models.database import transaction
from models.said import say
from models.storage import MOST_THIN_FACTOR, Storage
from workflows.hosts import existing
from workflows.migration.jobs import wake


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
            there = session.scalars(select(Storage.name).where(Storage.host == host).order_by(Storage.name)).all()
            raise PreconditionFailed(
                f"{host} has no storage {name!r}: its worker reports {', '.join(there) or 'none yet'}"
            )
        storage.thin_factor = thin_factor
        say(session, f"an operator set the thin factor of {name} on {host} to {thin_factor:g}")
        wake(session)
    return storage
