"""What a worker writes is what deploy/postgres/hosts.sql lets it write."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from drover.settings import settings
from lab.directory import Lab
from models import database as connections
from models.database import transaction
from models.job import JobState
from tests import factories
from workflows.migration import claims

ROOT = Path(__file__).parents[1]
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


@pytest.mark.usefixtures("_granted")
def test_a_worker_may_write_how_far_its_copy_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        factories.host(name)
    factories.guest("web", "one")
    claim = factories.claim(settings(), factories.job("web", "two", state=JobState.RUNNING), 0)
    with transaction() as session:
        session.execute(text("DROP ROLE IF EXISTS one"))
        session.execute(text("CREATE ROLE one LOGIN IN ROLE drover_host"))
    try:
        monkeypatch.setenv("DROVER_DATABASE_URL", settings().database_url.replace("//drover@", "//one@"))
        connections.forget()
        claims.progress(claim, settings())
    finally:
        monkeypatch.undo()
        connections.forget()
        with transaction() as session:
            session.execute(text("DROP ROLE one"))
