"""Real servers for the tests, started by the tests: Postgres, Redis, workers, guests. Never the machine's."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import fleet, services
from lab.directory import Lab
from migrations import upgrade
from models.base import Base
from models.database import engine, transaction
from tests.support import Moves


def _temporary_lab() -> Lab:
    """Below /tmp and short: Unix sockets lie in it."""
    return Lab(Path(tempfile.mkdtemp(prefix="dl", dir="/tmp")))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two hosts with their workers and a controller; `drover` in this process is pointed at them."""
    made = _temporary_lab()
    try:
        fleet.up(made, 2, flower=False)
        with fleet.pointed_at(made):
            yield made
    finally:
        fleet.down(made)
        shutil.rmtree(made.path, ignore_errors=True)


@pytest.fixture
def moves(lab: Lab) -> Iterator[Moves]:
    """Boots guests and moves them; ends what a test leaves behind."""
    made = Moves(lab)
    yield made
    made.end()


@pytest.fixture(scope="session")
def database_lab() -> Iterator[Lab]:
    """A Postgres with the newest schema, and nothing else."""
    made = _temporary_lab()
    made.path.chmod(0o711)
    try:
        services.start_postgres(made)
        yield made
    finally:
        services.stop_postgres(made)
        shutil.rmtree(made.path, ignore_errors=True)


@pytest.fixture
def database(database_lab: Lab) -> Iterator[None]:
    """An empty database; this process is pointed at it."""
    with fleet.pointed_at(database_lab):
        upgrade()
        with transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(table.delete())
        yield
        engine().dispose()
