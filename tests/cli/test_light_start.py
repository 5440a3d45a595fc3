"""Help and completion import no more than they show."""

import json
import subprocess
import sys

import pytest

HEAVY = ("sqlalchemy", "celery", "kombu", "redis", "qemu", "alembic", "httpx", "prometheus_client")
IMPORTED = """
import json, sys
from drover.cli import main
try:
    main({words})
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def imported(*words: str) -> set[str]:
    """Packages of which something was imported when a command ends."""
    program = IMPORTED.format(words=list(words))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


def test_the_list_of_commands_imports_no_command() -> None:
    found = imported("--help")
    assert not found & {*HEAVY, "pydantic", "psycopg", "models", "workflows", "workers"}


@pytest.mark.parametrize(
    "words", ["migrate", "drain", "drain submit", "return", "job resolve", "guest adopt", "host set", "fleet set",
              "config check", "gc", "reconcile", "db upgrade", "worker", "controller", "lab up"],
)  # fmt: skip
def test_the_help_of_a_command_imports_nothing_that_does_its_work(words: str) -> None:
    assert not imported(*words.split(), "--help") & {*HEAVY, "psycopg", "models", "workflows", "workers"}


@pytest.mark.parametrize("typed", ["drover ", "drover migrate ", "drover job show ", "drover migrate web --to "])
def test_completion_asks_by_psycopg_alone(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DROVER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    monkeypatch.setenv("DROVER_DATABASE_URL", "postgresql+psycopg://drover@127.0.0.1:1/drover")
    assert not imported() & {*HEAVY, "models", "workflows", "workers"}
