"""Help and completion import no more than they show, and only what sends a message imports Celery."""

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest

HEAVY = ("sqlalchemy", "celery", "kombu", "redis", "qemu", "alembic", "httpx", "prometheus_client")
COMMANDS = ("migrate", "drain", "drain submit", "return", "job resolve", "guest adopt", "host set", "fleet set",
            "config check", "gc", "reconcile", "db upgrade", "worker", "controller", "lab up")  # fmt: skip
TYPED = ("drover ", "drover migrate ", "drover job show ", "drover migrate web --to ")
IMPORTED = """
import json, os, sys
from drover.cli import main
for name, words, variables in json.load(sys.stdin):
    if os.fork() == 0:  # each begins with the list of commands and nothing else imported
        os.environ |= variables
        try:
            main(words)
        except SystemExit:
            pass
        print(json.dumps([name, sorted(sys.modules)]), file=sys.stderr, flush=True)
        os._exit(0)
    os.wait()
"""
Imported = Mapping[str, set[str]]


@pytest.fixture(scope="module")
def imported() -> Imported:
    """Packages of which something was imported when a command, or the completion of what is typed, has ended."""
    runs: list[tuple[str, list[str], dict[str, str]]] = [("", ["--help"], {})]
    runs += [(words, [*words.split(), "--help"], {}) for words in COMMANDS]
    for typed in TYPED:
        completes = {"_DROVER_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        database = {"DROVER_DATABASE_URL": "postgresql+psycopg://drover@127.0.0.1:1/drover"}
        runs.append((typed, [], completes | database))
    words = [sys.executable, "-c", IMPORTED]
    done = subprocess.run(words, input=json.dumps(runs), capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('["')]
    return {name: {module.partition(".")[0] for module in modules} for name, modules in told}


def test_the_list_of_commands_imports_no_command(imported: Imported) -> None:
    assert not imported[""] & {*HEAVY, "pydantic", "psycopg", "models", "workflows", "workers"}


@pytest.mark.parametrize("words", COMMANDS)
def test_the_help_of_a_command_imports_nothing_that_does_its_work(imported: Imported, words: str) -> None:
    assert not imported[words] & {*HEAVY, "pydantic", "psycopg", "models", "workflows", "workers"}


@pytest.mark.parametrize("typed", TYPED)
def test_completion_asks_by_psycopg_alone(imported: Imported, typed: str) -> None:
    assert not imported[typed] & {*HEAVY, "models", "workflows", "workers"}


def test_what_only_asks_the_database_imports_neither_celery_nor_redis() -> None:
    modules = "sys, drover.by_database, drover.cli.watching"
    asked = f"import {modules}; print({{'celery', 'kombu', 'redis'}} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", asked], text=True).strip() == "set()"
