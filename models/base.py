"""The declarative base: constraint names, timestamps and enums stored by value."""

import enum
from datetime import datetime
from typing import Any, cast

from sqlalchemy import JSON, DateTime, Enum, MetaData, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Session

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

Document = dict[str, Any]
"""A JSON document whose shape is given where it is written."""


class Base(DeclarativeBase):
    """All tables. Timestamps carry their zone; JSON is stored as JSONB."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        datetime: DateTime(timezone=True),
        Document: JSON().with_variant(JSONB(), "postgresql"),
        dict[str, str]: JSON().with_variant(JSONB(), "postgresql"),
    }


def now(session: Session) -> datetime:
    """The database's clock. Hosts' clocks differ: no stored time is read from one of them."""
    told = session.connection().scalar(select(func.clock_timestamp()))  # past the session: nothing is flushed by it
    return cast("datetime", told)


def by_value(states: type[enum.StrEnum]) -> Enum:
    """Store an enum's values as text, so that adding a member needs no change of the column's type.

    Where hosts write the column a constraint has the members (revision 0043), and needs a revision for a new one.
    """
    return Enum(
        states,
        native_enum=False,
        create_constraint=False,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )
