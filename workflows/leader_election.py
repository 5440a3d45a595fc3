"""Which controller leads: the one whose connection holds an advisory lock. Losing the connection ends the lead.

The connection is outside of the pool (`models.database.unpooled`): the lock belongs to the session of the server, and
a connection that went back to the pool would keep it.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    String,
    cast,
    column,
    exists,
    func,
    select,
    table,
    text,
)
from sqlalchemy.orm import Session

ACTING_LOCK = 0x636F6E74726F6C  # "control"
LOCKS = table(
    "pg_locks",
    column("locktype", String),
    column("granted", Boolean),
    *(column(name, BigInteger) for name in ("database", "classid", "objid", "objsubid")),
)
DATABASES = table("pg_database", column("oid", BigInteger), column("datname", String))


def acquire(connection: Connection) -> bool:
    """Take the lead, unless another controller has it."""
    return bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ACTING_LOCK}))


def acting() -> ColumnElement[bool]:
    """Some controller leads now, as part of a statement. It takes no lock, so it never keeps one from leading."""
    here = select(DATABASES.c.oid).where(DATABASES.c.datname == func.current_database()).scalar_subquery()
    key = cast(LOCKS.c.classid, BigInteger) * (1 << 32) + cast(LOCKS.c.objid, BigInteger)
    ours = (LOCKS.c.locktype == "advisory", LOCKS.c.granted, LOCKS.c.objsubid == 1, LOCKS.c.database == here)
    return exists().select_from(LOCKS).where(*ours, key == ACTING_LOCK)


def anybody_acts(session: Session | Connection) -> bool:
    """Some controller leads now."""
    return bool(session.scalar(select(acting())))
