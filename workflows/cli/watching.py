"""Watching a job until it ends. The job does not know of it: who stops watching stops nothing else."""

import sys
import time
from typing import Protocol, Self

import typer
from rich.console import Console
from sqlalchemy.exc import InterfaceError, OperationalError

from models.errors import DroverError
from models.job import Job, JobState
from workflows.cli import documents, exits, output, reading
from workflows.cli.exits import ExitCode
from workflows.cli.plain import PlainLines
from workflows.cli.reading import Snapshot
from workflows.cli.screen import Screen

POLL_S = 0.2
PATIENCE_S = 30.0
"""A database that is away for a moment does not end the watching."""


class StoppedWatching(DroverError):
    """The watching ended before the job did; the text says why."""


class View(Protocol):
    """Shows one snapshot after another."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, shot: Snapshot) -> None:
        """Show the job as it is now."""


def view() -> View:
    """Bars that move on a terminal, lines elsewhere; on stderr, for stdout is for the result."""
    console = Console(file=sys.stderr)
    return Screen(console) if console.is_terminal else PlainLines()


def watch(job_id: int, *, timeout_s: float | None, as_json: bool) -> None:
    """Show a job until it ends, then say how it ended; leaves with the exit code for that."""
    try:
        shot = _until_ended(job_id, timeout_s)
        output.note(verdict(shot)) if as_json else output.say(verdict(shot))
        code = exits.of_job(shot.job.state)
    except (KeyboardInterrupt, StoppedWatching) as stopped:
        why = "interrupted" if isinstance(stopped, KeyboardInterrupt) else str(stopped)
        output.note(
            f"{why}: job {job_id} goes on; `drover job watch {job_id}` shows it again, "
            f"`drover job cancel {job_id}` ends it"
        )
        code = ExitCode.STOPPED_WATCHING
    if as_json:
        emit_job(job_id)
    raise typer.Exit(code)


def emit_job(job_id: int) -> None:
    """Print the job's JSON document."""
    output.emit(documents.job_document(reading.snapshot(job_id), reading.events(job_id, "warning")))


def _until_ended(job_id: int, timeout_s: float | None) -> Snapshot:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    shot = reading.snapshot(job_id)  # an unknown job, or no database at all, is said at once
    with view() as shown:
        while True:
            shown.show(shot)
            if shot.job.state.ended:
                return shot
            if deadline is not None and time.monotonic() >= deadline:
                raise StoppedWatching(f"not ended after {timeout_s:g} s")
            time.sleep(POLL_S)
            shot = _patiently(job_id)


def _patiently(job_id: int) -> Snapshot:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return reading.snapshot(job_id)
        except (OperationalError, InterfaceError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(1)


def verdict(shot: Snapshot) -> str:
    """One line on how the job ended."""
    job = shot.job
    if job.state is JobState.DONE:
        return f"done: {job.guest} lives on {job.destination}; {_figures(shot)}"
    why = documents.public(job.error) or "no reason was recorded"
    if job.state is JobState.UNDONE:
        return f"undone: {job.guest} stays on {job.source}; {why}"
    return f"needs an operator: {why} (`drover job explain {job.id}` tells how it came to that)"


def _figures(shot: Snapshot) -> str:
    copied = sum(disk.bytes_copied for disk in shot.job.disks)
    figures = f"{output.size(copied)} of disks in {output.span(shot.total_s)}"
    return figures + (f", guest paused for {pause}" if (pause := blackout(shot.job)) else "")


def blackout(job: Job) -> str:
    """How long the guest stood still, for people."""
    ms = (job.blackout or {}).get("ms")
    return "" if ms is None else f"{ms:.0f} ms"
