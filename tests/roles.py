"""What tests change in a lab's Postgres as its owner."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from lab.directory import Lab
from tests.helpers import until


def run(lab: Lab, script: str) -> None:
    """A script, as whoever may do everything."""
    with psycopg.connect(f"host={lab.postgres} user=drover dbname=drover", autocommit=True) as connection:
        connection.execute(script.encode())


@contextmanager
def asked_for_passwords(lab: Lab, *roles: str) -> Iterator[None]:
    """Postgres asks these roles for their passwords."""
    file = lab.postgres / "data/pg_hba.conf"
    before = file.read_text()
    file.write_text(f"local all {','.join(roles)} scram-sha-256\n{before}")
    run(lab, "SELECT pg_reload_conf()")
    try:
        until("passwords are asked for", lambda: _needs_password(lab, roles[0]))
        yield
    finally:
        file.write_text(before)
        run(lab, "SELECT pg_reload_conf()")


def _needs_password(lab: Lab, role: str) -> bool:
    try:
        psycopg.connect(f"host={lab.postgres} dbname=drover user={role}").close()
    except psycopg.OperationalError:
        return True
    return False
