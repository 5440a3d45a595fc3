"""Which controller leads: the one whose connection holds an advisory lock. Losing the connection ends the lead.

The connection is outside of the pool (`models.database.unpooled`): the lock belongs to the session of the server, and
a connection that went back to the pool would keep it.
"""

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

ACTING_LOCK = 0x636F6E74726F6C  # "control"


def acquire(connection: Connection) -> bool:
    """Take the lead, unless another controller has it."""
    return bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ACTING_LOCK}))


def anybody_acts(session: Session | Connection) -> bool:
    """Some controller leads now. Takes no lock itself, so that it never keeps a controller from leading."""
    held = text(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND (classid::bigint << 32) | objid::bigint = :key)"
    )
    return bool(session.scalar(held, {"key": ACTING_LOCK}))
