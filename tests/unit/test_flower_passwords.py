"""Who may look at Flower stands in a file that is read for each request; it listens only where somebody asks."""

import os
from pathlib import Path
from typing import Any

import pytest
from flower.views import BaseHandler
from tornado.options import options

from drover.broker import flower
from drover.broker.app import app
from drover.broker.flower import Listed
from drover.cli import service_start
from drover.errors import PreconditionFailed
from drover.settings import settings
from tests.factories import offline


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, which the settings name."""
    file = tmp_path / "flower.users"
    file.write_text("ada:hunter2\n")
    for name, value in (("FLOWER_PASSWORD_FILE", str(file)), ("DATABASE_URL", offline().database_url)):
        monkeypatch.setenv(f"DROVER_{name}", value)
    monkeypatch.setenv("DROVER_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    settings.cache_clear()
    return file


def test_the_file_is_read_for_each_request_and_who_cannot_be_read_may_not_look(users: Path) -> None:
    listed = Listed(users)
    assert list(listed) == ["ada:hunter2"]
    users.write_text("ada:hunter2\neve:hunter2\n")
    assert list(listed) == ["ada:hunter2", "eve:hunter2"]
    users.write_text("")
    assert (list(listed), bool(listed)) == ([], True), "Flower asks nobody where it knows of no password"
    users.unlink()
    assert (list(listed), bool(listed)) == ([], True)


def test_flower_is_told_nothing_secret_in_its_arguments_and_runs_no_file_of_its_folder(
    users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(app, "start", started.append)
    monkeypatch.setattr(BaseHandler, "get_broker", BaseHandler.get_broker)
    before = options.basic_auth
    try:
        flower.serve("127.0.0.1:5555", users.with_name("events"))
        assert list(options.basic_auth) == ["ada:hunter2"]
    finally:
        options.basic_auth = before or []
    [words] = started
    wanted = {"--read_only=True", "--conf=/dev/null", "--address=127.0.0.1", f"--db={users.with_name('events')}"}
    assert wanted < set(words)
    assert "hunter2" not in " ".join([*words, *os.environ.values()])


@pytest.mark.parametrize(
    ("content", "address", "variable", "said"),
    [
        (None, "127.0.0.1:5555", "", "DROVER_FLOWER_PASSWORD_FILE cannot be read"),
        ("", "127.0.0.1:5555", "", "has no password in it"),
        ("hunter2", "127.0.0.1:5555", "", "USER:PASSWORD is wanted"),
        ("ada:", "127.0.0.1:5555", "", "USER:PASSWORD is wanted"),
        ("ada:hunter2", "127.0.0.1:5555", "ada:hunter2", "both say who may look"),
        ("ada:hunter2", "127.0.0.1:0", "", "no Flower can be served at '127.0.0.1:0'"),
    ],
)
def test_what_would_let_nobody_or_anybody_look_is_refused_at_the_start(
    users: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, address: str, variable: str, said: str
) -> None:
    users.unlink() if content is None else users.write_text(content)
    monkeypatch.setenv("FLOWER_BASIC_AUTH", variable)
    with pytest.raises(PreconditionFailed, match=said):
        service_start.serve_flower(address, None, as_json=False)


def test_without_the_file_it_answers_this_machine_alone(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DROVER_FLOWER_PASSWORD_FILE")
    with pytest.raises(PreconditionFailed, match="can be reached from elsewhere, and Flower would ask nobody"):
        service_start.serve_flower("0.0.0.0:5555", None, as_json=False)
