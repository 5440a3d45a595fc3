"""What the roles of each purpose may do in the database. The owner of the tables may do everything.

`drover db roles` prints what makes roles; from then on `drover db upgrade` renews the rights of what is there.
"""

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.resources import files

from sqlalchemy import Connection, text

from drover import names
from drover.errors import PreconditionFailed

LOCK = 0x64726F766572  # "drover"
"""Of what changes the schema or its rights: one after the other."""


class Purpose(enum.StrEnum):
    """What a role is for. Each has a group, whose rights are in the file of that name."""

    HOST = "host"
    CONTROLLER = "controller"
    READER = "reader"

    @property
    def group(self) -> str:
        """The role that has the rights; others are members of it."""
        return f"drover_{self}"


def renew(connection: Connection) -> None:
    """Give the groups that there are the rights of this version. It waits for nobody where they are right already."""
    known = text("SELECT rolname FROM pg_roles WHERE rolname LIKE 'drover\\_%'")
    there = set(connection.scalars(known))
    groups = [purpose for purpose in Purpose if purpose.group in there]
    connection.commit()
    if groups:
        connection.execution_options(no_parameters=True).exec_driver_sql(_rights(groups))
        connection.commit()


def script(
    members: Mapping[Purpose, Iterable[str]], passwords: Mapping[str, str], until: datetime | None = None
) -> str:
    """What a superuser runs to have these roles with their rights, in SQL; doing it twice does no harm.

    Args:
        members: the roles that log in, by purpose; hosts are named as their workers are.
        passwords: new ones, as Postgres stores them, by role.
        until: when these end; None: never.

    Raises:
        PreconditionFailed: a role cannot be called that.
    """
    roles = [(name, purpose) for purpose, chosen in members.items() for name in chosen]
    for name, purpose in roles:
        _check(name, purpose)
    if missing := set(passwords) - {name for name, _ in roles}:
        raise PreconditionFailed(f"{', '.join(sorted(missing))} is none of the roles that are named here")
    enrolled = [f"SELECT pg_temp.enrol('{name}', '{purpose.group}');" for name, purpose in roles]
    ends = "infinity" if until is None else until.isoformat()
    changed = [
        f"ALTER ROLE \"{name}\" PASSWORD '{verifier}' VALID UNTIL '{ends}';" for name, verifier in passwords.items()
    ]
    parts = ["BEGIN;", "SET LOCAL client_min_messages = warning;", _text("roles"), *enrolled, *changed]
    return "\n".join([*parts, _rights(list(Purpose)), "COMMIT;"])


def _check(name: str, purpose: Purpose) -> None:
    names.check(name, "a host" if purpose is Purpose.HOST else "a role")
    if name.startswith("pg_") or name in {"postgres", "public", "none", *(each.group for each in Purpose)}:
        raise PreconditionFailed(f"a role cannot be called {name}: Postgres or Drover has another use for that name")


def _rights(groups: Iterable[Purpose]) -> str:
    alone = f"SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_xact_lock({LOCK});"
    return "\n".join([alone, *map(_text, groups), _text("policies")])


def _text(name: str) -> str:
    return files(__name__).joinpath(f"{name}.sql").read_text()
