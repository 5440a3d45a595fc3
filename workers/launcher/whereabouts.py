"""Where a guest lives, by the database's word. Asked at boot as well, so it imports little."""

from sqlalchemy import Select, select

from drover.settings import settings
from models.database import transaction
from models.guest import Guest


def not_on(guest: str, host: str) -> Select[str]:
    """Asks for the host where it lives, if that is another one."""
    return select(Guest.host).where(Guest.name == guest, Guest.host != host)


def elsewhere(guest: str, host: str) -> str | None:
    """That host. A guest that nobody knows lives where it is.

    Raises:
        SQLAlchemyError: the database does not say.
        LookupError: nothing says which host this is.
    """
    named = host or settings().host
    if not named:
        raise LookupError("neither its launch file nor DROVER_HOST says which host this is")
    with transaction() as session:
        return session.scalars(not_on(guest, named)).one_or_none()
