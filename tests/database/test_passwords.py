"""A password for Postgres in a file, while it is renewed: which connections come about, on a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from drover.settings import settings
from lab.directory import Lab
from models.database import _pool, passing
from tests import factories, roles

ROLE = "renewed"


def _new(file: Path) -> Engine:
    """A pool without connections, as a process has it that starts now."""
    url = settings().database_url.replace("//drover@", f"//{ROLE}@")
    return _pool(factories.ours(database_url=url, database_password_file=file))


def _refused(file: Path) -> OperationalError:
    with pytest.raises(OperationalError) as refusal:
        _new(file).connect()
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


def test_while_a_password_is_renewed_connections_come_about_at_every_moment(file: Path, database_lab: Lab) -> None:
    file.write_text("first\n")
    pool = _new(file)
    with pool.connect() as open_one:
        file.write_text("second\nfirst\n")
        pool.connect().close()
        roles.run(database_lab, f"ALTER ROLE {ROLE} PASSWORD 'second'")
        pool.connect().close()
        _new(file).connect().close()
        assert open_one.execute(text("SELECT current_user")).scalar() == ROLE
    pool.dispose()


def test_a_worker_waits_while_no_password_of_the_file_counts_or_it_is_away(file: Path) -> None:
    assert passing(_refused(file))
    assert "password authentication failed" in str(_refused(file))
    file.write_text("")
    assert passing(_refused(file))
    file.unlink()
    assert "the password for Postgres cannot be read" in str(_refused(file))
