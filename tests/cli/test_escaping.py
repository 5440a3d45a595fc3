"""Nothing that is shown acts on a terminal, begins a line of its own, or is taken for markup."""

import json
import logging
import sys
from io import StringIO

import pytest
from rich.console import Console

from drover import escaping, logs
from drover.cli.live_view import Screen
from drover.views import queries
from models.database import transaction
from models.event_action import EventAction
from models.job import Job, JobState, record_event
from tests.cli.support import drover, insert_job

EVIL = "[bold]no[/bold]\x1b[2J\n2026-01-01 done: all is well\r\x9b2J\u202ex\x7f\ud800"
SHOWN = r"[bold]no[/bold]\x1b[2J\n2026-01-01 done: all is well\r\x9b2J\u202ex\x7f\ud800"
IN_ROWS = EVIL.replace("\ud800", "")
"""Postgres takes no lone surrogate."""


def harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_what_cannot_be_printed_is_shown_as_python_writes_it() -> None:
    assert escaping.escaped(EVIL) == SHOWN
    assert escaping.escaped("Grüße, 東京 [x]") == "Grüße, 東京 [x]"


def test_json_is_the_same_document_with_no_character_that_acts() -> None:
    document = {EVIL: [EVIL, "Grüße", 1, None]}
    text = escaping.json_text(document)
    assert text.isprintable()
    assert "Grüße" in text
    assert json.loads(text) == document


@pytest.mark.parametrize(
    "words", ["job show {}", "job watch {}", "job explain {}", "job list --all", "guest list", "guest show web"]
)
@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.usefixtures("database")
def test_a_command_shows_error_texts_of_qemu_and_paths_escaped(words: str, more: list[str]) -> None:
    number = insert_job(JobState.ROLLED_BACK)
    with transaction() as session:
        job = session.get_one(Job, number)
        job.error, job.steps[0].error, job.disks[0].destination_path = IN_ROWS, IN_ROWS, IN_ROWS
        for action in (EventAction.RETRY, EventAction.WARNING):
            record_event(session, number, by="test", action=action, sentence=IN_ROWS)
    said = drover(*words.format(number).split(), *more)
    assert harmless(said.output)
    if words.startswith("job explain") and not more:
        assert escaping.escaped(IN_ROWS) in said.stdout


@pytest.mark.usefixtures("database")
def test_the_live_view_shows_them_escaped_and_without_markup() -> None:
    number = insert_job(JobState.RUNNING)
    with transaction() as session:
        job = session.get_one(Job, number)
        job.wait_reason, job.steps[0].error = IN_ROWS, IN_ROWS
    drawn = StringIO()
    with Screen(Console(file=drawn, force_terminal=True, width=400)) as screen:
        screen.show(queries.snapshot(number))
    assert drawn.getvalue().count(escaping.escaped(IN_ROWS)) >= 2


@pytest.mark.parametrize("words", [["job", "show", EVIL], [EVIL], ["migrate", EVIL, "--to", "hv2"], ["--" + EVIL]])
@pytest.mark.usefixtures("database")
def test_what_was_typed_comes_back_escaped(words: list[str]) -> None:
    said = drover(*words)
    assert said.exit_code == 2
    assert harmless(said.output)


@pytest.mark.usefixtures("database")
def test_a_traceback_for_debugging_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(EVIL)

    monkeypatch.setattr(queries, "snapshot", fails)
    said = drover("--debug", "job", "show", "1")
    assert harmless(said.output)
    assert "\n  2026-01-01 done: all is well\\r" in said.stderr


@pytest.mark.parametrize("lines", [logs.TextLines(), logs.JsonLines()])
def test_no_field_message_or_traceback_begins_a_line_of_its_own_or_acts(lines: logging.Formatter) -> None:
    made = logging.getLogger("drover.x").makeRecord("drover.x", logging.INFO, __file__, 1, "%s", (EVIL,), None)
    try:
        raise ValueError(EVIL)
    except ValueError:
        made.exc_info = sys.exc_info()
    with logs.about(guest=EVIL, host=EVIL):
        line = lines.format(made)
    first, *rest = line.split("\n")
    assert harmless(line)
    assert all(more.startswith("  ") for more in rest)
    if isinstance(lines, logs.TextLines):
        assert first.count(SHOWN) == 3
