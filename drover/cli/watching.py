"""Shows a job, a drain or a roll until it ends. Read-only: interrupting it never affects the job."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import typer
from rich.console import Console
from sqlalchemy.exc import InterfaceError, OperationalError

from drover import words
from drover.cli import drain_view, exit_codes, output, roll_view
from drover.cli.backend import by_api, operations
from drover.cli.exit_codes import ExitCode
from drover.cli.line_view import PlainLines
from drover.cli.live_view import Screen
from drover.errors import DroverError, Unreachable
from drover.views import drain_sentences, rolls, sentences
from models.base import Document
from models.database import transaction
from workflows import leader_election

POLL_S, POLL_API_S = 0.2, 1.0
PATIENCE_S = 30.0
"""How long an unreachable database, or API, does not end the watching."""


class StoppedWatching(DroverError):
    """The watching ended before the job did; the text has the reason."""


class Endable(Protocol):
    """What can be watched until it ends."""

    @property
    def ended(self) -> bool: ...


Shot = TypeVar("Shot", bound=Endable)
Shown = TypeVar("Shown", contravariant=True)


class View(Protocol[Shown]):
    """Shows one snapshot after another."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, shot: Shown, /) -> None:
        """Show it as it is now."""


@dataclass(frozen=True, kw_only=True)
class Watched(Generic[Shot]):
    """A job, a drain or a roll to be watched."""

    name: str
    """`job 7`."""
    read: Callable[[], Shot]
    on_terminal: Callable[[Console], View[Shot]]
    elsewhere: Callable[[], View[Shot]]
    verdict: Callable[[Shot], str]
    exit_code: Callable[[Shot], ExitCode]
    document: Callable[[], Document]

    def view(self) -> View[Shot]:
        """A live view on a terminal, else lines; on stderr, because stdout is for the result."""
        console = Console(file=sys.stderr)
        return self.on_terminal(console) if console.is_terminal else self.elsewhere()


def watch(job_id: int, *, timeout_s: float | None, as_json: bool) -> None:
    """Show a job until it ends, then print its result; exits with the code for that."""
    _watch(
        Watched(
            name=f"job {job_id}",
            read=lambda: operations().job_shot(job_id),
            on_terminal=Screen,
            elsewhere=PlainLines,
            verdict=sentences.verdict,
            exit_code=lambda shot: exit_codes.of_job(shot.job.state),
            document=lambda: operations().job(job_id),
        ),
        timeout_s=timeout_s,
        as_json=as_json,
    )


def watch_drain(drain_id: int, *, timeout_s: float | None, as_json: bool) -> None:
    """Likewise for a drain."""
    _watch(
        Watched(
            name=f"drain {drain_id}",
            read=lambda: operations().drain_shot(drain_id),
            on_terminal=drain_view.DrainScreen,
            elsewhere=drain_view.DrainLines,
            verdict=drain_sentences.verdict,
            exit_code=drain_view.exit_code,
            document=lambda: operations().drain(drain_id),
        ),
        timeout_s=timeout_s,
        as_json=as_json,
    )


def watch_roll(roll_id: int, *, timeout_s: float | None, as_json: bool) -> None:
    """Likewise for a roll, which also ends the watching when it pauses because something failed."""
    _watch(
        Watched(
            name=f"roll {roll_id}",
            read=lambda: operations().roll_shot(roll_id),
            on_terminal=lambda _: roll_view.RollLines(),
            elsewhere=roll_view.RollLines,
            verdict=rolls.verdict,
            exit_code=roll_view.exit_code,
            document=lambda: operations().roll(roll_id),
        ),
        timeout_s=timeout_s,
        as_json=as_json,
    )


def _watch(watched: Watched[Shot], *, timeout_s: float | None, as_json: bool) -> None:
    try:
        shot = _until_ended(watched, timeout_s)
        said = watched.verdict(shot)
        output.note(said) if as_json else output.say(said)
        code = watched.exit_code(shot)
    except (KeyboardInterrupt, StoppedWatching) as stopped:
        why = "interrupted" if isinstance(stopped, KeyboardInterrupt) else str(stopped)
        kind, number = watched.name.split()
        output.note(
            f"{why}: {watched.name} goes on; `drover {kind} watch {number}` shows it again, "
            f"`drover {kind} cancel {number}` ends it"
        )
        code = ExitCode.STOPPED_WATCHING
    if as_json:
        output.emit(watched.document())
    raise typer.Exit(code)


def note_without_controller() -> None:
    """Warn if no controller is active: no step would be published, without any other sign of it."""
    if by_api():
        return  # what waits for one has that as its `wait_reason`
    with transaction() as session:
        if not leader_election.anybody_acts(session):
            output.note("no controller is active: nothing begins until `drover controller` runs somewhere")


def _until_ended(watched: Watched[Shot], timeout_s: float | None) -> Shot:
    begun = time.monotonic()
    shot = watched.read()  # an unknown number or an unreachable database is reported at once
    if not shot.ended:
        note_without_controller()
    with watched.view() as shown:
        while True:
            shown.show(shot)
            if shot.ended:
                return shot
            if timeout_s is not None and time.monotonic() - begun >= timeout_s:
                raise StoppedWatching(f"not ended after {words.duration(timeout_s)}")
            time.sleep(POLL_API_S if by_api() else POLL_S)
            shot = _patiently(watched.read)


def _patiently(read: Callable[[], Shot]) -> Shot:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return read()
        except (OperationalError, InterfaceError, Unreachable):
            if time.monotonic() >= deadline:
                raise
            time.sleep(1)
