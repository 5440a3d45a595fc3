"""A password for Postgres in a file, while it is renewed: which connections come about, on a real server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from drover.settings import settings
from lab.directory import Lab
from models.database import _pool, passing
from tests import factories, roles

ROLE = "renewed"


@contextmanager
def _pool_of(file: Path) -> Iterator[Engine]:
    """Without connections, as a process has it that starts now."""
    url = settings().database_url.replace("//drover@", f"//{ROLE}@")
    made = _pool(factories.ours(database_url=url, database_password_file=file))
    yield made
    made.dispose()


def _refused(file: Path) -> OperationalError:
    with _pool_of(file) as pool, pytest.raises(OperationalError) as refusal:
        pool.connect()
    return refusal.value


@pytest.fixture
def file(database_lab: Lab, database: None, tmp_path: Path) -> Iterator[Path]:
    """The password of a role that gets in by nothing else."""
    made = tmp_path / "password"
    made.write_text("wrong\n")
    roles.run(database_lab, f"CREATE ROLE {ROLE} LOGIN PASSWORD 'first'")
    try:
        with roles.asked_for_passwords(database_lab, ROLE):
            yield made
    finally:
        roles.run(database_lab, f"DROP ROLE {ROLE}")


def _another(pool: Engine) -> None:
    """A connection that was not there before."""
    connection = pool.connect()
    connection.detach()
    connection.close()


def test_while_a_password_is_renewed_connections_come_about_at_every_moment(file: Path, database_lab: Lab) -> None:
    file.write_text("first\n")
    with _pool_of(file) as pool, pool.connect() as open_one:
        file.write_text("second\nfirst\n")
        _another(pool)
        roles.run(database_lab, f"ALTER ROLE {ROLE} PASSWORD 'second'")
        _another(pool)
        assert open_one.execute(text("SELECT current_user")).scalar() == ROLE


def test_a_worker_waits_while_no_password_of_the_file_counts_or_it_is_away(file: Path) -> None:
    assert passing(_refused(file))
    assert "password authentication failed" in str(_refused(file))
    file.write_text("")
    assert passing(_refused(file))
    file.unlink()
    assert "the password for Postgres cannot be read" in str(_refused(file))
