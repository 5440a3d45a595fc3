"""What a worker writes is what deploy/postgres/hosts.sql lets it write."""

import ast
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from drover.settings import settings
from lab.directory import Lab
from models import database as connections
from models.database import transaction
from models.host import Host
from models.job import Event, Job, JobState
from tests import factories
from workers import registration
from workflows import budgets, fleet_limits
from workflows.migration import claims

ROOT = Path(__file__).parents[2]
RIGHTS = ROOT / "deploy/postgres/hosts.sql"


@pytest.fixture
def _granted(database_lab: Lab, database: None) -> None:
    with RIGHTS.open("rb") as script:
        command = ["psql", "--quiet", f"--host={database_lab.postgres}", "--username=drover", "drover"]
        subprocess.run(command, stdin=script, check=True, capture_output=True)


@pytest.mark.usefixtures("_granted")
def test_a_worker_may_write_every_column_that_steps_note() -> None:
    noted = set(_noted())
    assert {"switchover", "file_copy"} <= noted
    with transaction() as session:
        may = text("SELECT has_column_privilege('drover_host', 'job', :column, 'UPDATE')")
        assert [column for column in noted if not session.scalar(may, {"column": column})] == []


def _noted() -> Iterator[str]:
    """The names in `note(name=...)`, all over the workers."""
    for path in (ROOT / "workers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "note":
                yield from (keyword.arg for keyword in node.keywords if keyword.arg)


@contextmanager
def _as_host(name: str) -> Iterator[None]:
    """This process has the role of a hypervisor's worker."""
    with transaction() as session:
        session.execute(text("GRANT USAGE ON SCHEMA public TO PUBLIC"))  # as in every new database
        session.execute(text(f"DROP ROLE IF EXISTS {name}"))
        session.execute(text(f"CREATE ROLE {name} LOGIN IN ROLE drover_host"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DROVER_DATABASE_URL", settings().database_url.replace("//drover@", f"//{name}@"))
            connections.forget()
            yield
    finally:
        connections.forget()
        with transaction() as session:
            session.execute(text(f"DROP ROLE {name}"))


@pytest.fixture
def moving(_granted: None) -> int:
    """A move from one host to another."""
    for name in ("one", "two", "three"):
        factories.host(name)
    factories.guest("web", "one")
    return factories.job("web", "two", state=JobState.RUNNING)


def test_a_worker_may_write_how_far_its_copy_is(moving: int) -> None:
    claim = factories.claim(settings(), moving, 0)
    with _as_host("one"):
        claims.progress(claim, settings())


def test_a_worker_knows_its_share_of_what_moves_take_that_it_does_not_see(moving: int) -> None:
    factories.guest("db", "three")
    other = factories.job("db", "two", state=JobState.RUNNING)
    fleet_limits.describe_host("three", {}, ["rack=r3"])
    budgets.define("all", None, None, 10**8, None)
    budgets.define("slow", "rack=r3", None, 10**7, None)
    job = factories.load(moving)
    with _as_host("one"):
        with transaction() as session:
            assert session.get(Job, other) is None
        assert budgets.rate_of(job) == 9 * 10**7


def test_a_worker_that_is_back_may_say_so_in_the_stories_of_its_moves(moving: int) -> None:
    with transaction() as session:
        session.get_one(Host, "one").heartbeat_at = func.clock_timestamp() - timedelta(minutes=5)
        session.get_one(Job, moving).created_at = func.clock_timestamp() - timedelta(hours=1)
    with _as_host("one"):
        registration.register(factories.ours(host="one", address="127.0.0.1"))
        with transaction() as session:
            told = session.scalars(select(Event.sentence).where(Event.job_id == moving, Event.action == "outage")).all()
    assert [one.startswith("one was silent for 5:00") for one in told] == [True]
