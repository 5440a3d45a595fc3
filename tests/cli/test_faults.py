"""Messages of commands that fail."""

import json
import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError

from drover.cli.errors import fault
from drover.views import queries
from models.database import engine, transaction
from tests.cli.support import DROVER, NO_BROKER, document, drover, point_at
from tests.helpers import until


@pytest.mark.parametrize("missing", ["DROVER_DATABASE_URL", "DROVER_BROKER_URL"])
def test_a_missing_variable_is_named(missing: str, monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    both = {"DROVER_DATABASE_URL": database_url, "DROVER_BROKER_URL": NO_BROKER}
    point_at(monkeypatch, **{name: value for name, value in both.items() if name != missing})
    result = drover("job", "list", "--json")
    assert result.exit_code == 2
    assert f"error: {missing} is not set" in result.stderr
    assert json.loads(result.stdout)["error"]["code"] == "refused"


def test_an_unreachable_database_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg://drover:hunter2@127.0.0.1:1/drover"
    point_at(monkeypatch, DROVER_DATABASE_URL=url, DROVER_BROKER_URL=NO_BROKER)
    result = drover("job", "list", "--json")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the database at postgresql+psycopg://drover:***@127.0.0.1:1/drover")
    assert len(result.stderr.splitlines()) == 1
    assert "hunter2" not in result.output
    assert json.loads(result.stdout)["error"]["code"] == "unreachable"


@pytest.mark.parametrize("url", ["nonsense", "mongodb://x/y"])
def test_a_wrong_database_url_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, DROVER_DATABASE_URL=url, DROVER_BROKER_URL=NO_BROKER)
    result = drover("job", "list")
    assert result.exit_code == 2, result.output
    assert "postgresql+psycopg://" in result.stderr


@pytest.mark.parametrize("words", [["job", "list"], ["job", "show", "1"], ["host", "list"], ["worker", "--host", "x"]])
def test_missing_tables(bare: None, words: list[str]) -> None:
    with transaction() as session:
        session.execute(text("DROP SCHEMA public CASCADE"))
        session.execute(text("CREATE SCHEMA public"))
    result = drover(*words, "--json")
    assert result.exit_code == 1
    assert "run `drover db upgrade`" in result.stderr
    assert json.loads(result.stdout)["error"]["code"] == "schema"


@pytest.fixture
def broker_with_a_password(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "redis.sock"
    argv = ["redis-server", "--port", "0", "--unixsocket", str(path), "--requirepass", "secret", "--save", ""]
    running = subprocess.Popen(argv, stdout=subprocess.DEVNULL, cwd=tmp_path)
    until("Redis listens", path.exists)
    yield f"redis+socket://{path}"
    running.kill()
    running.wait()


@pytest.mark.parametrize("words", [["worker", "--host", "hv1"], ["controller"]])
def test_a_service_that_redis_does_not_let_in_says_so_and_ends(
    database: None, broker_with_a_password: str, words: list[str]
) -> None:
    environment = os.environ | {"DROVER_BROKER_URL": broker_with_a_password}
    ended = subprocess.run([DROVER, *words], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "refused by it: check user, password and certificates in DROVER_BROKER_URL" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_role_without_rights_hears_what_gives_them(database: None) -> None:
    with transaction() as session:
        session.execute(text("DROP ROLE IF EXISTS nobody_much"))
        session.execute(text("CREATE ROLE nobody_much LOGIN"))
        session.execute(text("GRANT USAGE ON SCHEMA public TO PUBLIC"))  # as in every new database
    url = os.environ["DROVER_DATABASE_URL"].replace("drover@", "nobody_much@")
    environment = os.environ | {"DROVER_DATABASE_URL": url}
    ended = subprocess.run([DROVER, "job", "list"], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "`drover db roles` gives each what it needs" in ended.stderr


def test_db_upgrade_from_empty_and_again(bare: None) -> None:
    with transaction() as session:
        session.execute(text("DROP SCHEMA public CASCADE"))
        session.execute(text("CREATE SCHEMA public"))
    first = document("db", "upgrade")
    assert first["revision_before"] is None
    second = document("db", "upgrade")
    assert second == {"revision_before": first["revision"], "revision": first["revision"]}
    assert "already" in drover("db", "upgrade").stdout


def test_an_unreachable_broker_is_one_sentence(database: None) -> None:
    words = [DROVER, "guest", "show", "web", "--json"]  # a process of its own: Celery keeps its connections
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the broker at redis://")
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr + done.stdout
    assert json.loads(done.stdout)["error"]["code"] == "unreachable"


def test_a_command_that_stood_still_in_a_transaction_says_that_nothing_was_changed(database: None) -> None:
    with engine().connect() as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 10"))
        psycopg_connection = connection.connection.driver_connection
        assert psycopg_connection is not None
        ended = select.poll()
        ended.register(psycopg_connection, select.POLLRDHUP)  # what is sent before would be answered by a reset alone
        assert ended.poll(30_000), "the server does not end it"
        with pytest.raises(InternalError) as refused:
            connection.execute(text("SELECT 1"))
    assert "nothing was changed: try again" in fault(refused.value).message


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch)
    assert "Traceback" not in drover("job", "list").output
    assert "Traceback" in drover("--debug", "job", "list").stderr


def test_a_bug_is_one_sentence(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(queries, "newest", broken)
    result = drover("job", "list", "--json")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ZeroDivisionError: oh")
    assert json.loads(result.stdout)["error"]["code"] == "failed"


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["job", "show"],
        ["job", "show", "1", "--key", "k"],
        ["job", "show", "seven"],
        ["migrate", "web"],
        ["migrate", "web", "--to", "hv2", "--bandwidth", "fast"],
        ["migrate", "web", "--to", "hv2", "--max-downtime-ms", "0"],
        ["job", "list", "--nonsense"],
    ],
    ids=" ".join,
)
def test_usage_errors(words: list[str]) -> None:
    result = drover(*words, "--json")
    assert result.exit_code == 2
    assert result.stderr
    assert json.loads(result.stdout)["error"]["code"] == "usage"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("migrate nobody --to hv2", "there is no guest 'nobody'"),
        ("migrate web --to nowhere", "there is no host 'nowhere': see `drover host list`"),
        ("migrate web --to hv1", "web is on hv1 already"),
        ("migrate web --to gone", "has sent no heartbeat since"),
        ("migrate web --to hv1 --dry-run", "web is on hv1 already"),
        ("guest show nobody", "there is no guest 'nobody'"),
        ("guest adopt db --host nowhere --qmp /q", "there is no host 'nowhere'"),
        ("job show 99999", "there is no job 99999"),
        ("job show --key none", "no job was submitted with the key 'none'"),
        ("job watch 99999", "there is no job 99999"),
        ("job cancel 99999", "there is no job 99999"),
        ("job retry 99999", "there is no job 99999"),
        ("job explain 99999", "there is no job 99999"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    database: None, answers: dict[str, Any], words: str, sentence: str
) -> None:
    result = drover(*words.split(), "--json")
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "refused"
    assert sentence in error["message"]
    assert drover(*words.split()).stdout == ""
