"""Display of drains: their JSON, the table of their guests, and the live view."""

import time
from collections.abc import Iterable
from typing import NoReturn

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from drover import words
from drover.cli import output
from drover.cli.backend import operations
from drover.cli.exit_codes import ExitCode
from drover.operations import Wanted
from drover.views import read_back
from drover.views.drain_queries import DrainShot, Row
from drover.views.drain_sentences import headline, standing, verdict
from drover.views.serializers import public
from drover.words import size, span
from models.base import Document
from models.drain import DrainState, GuestState

TITLES = ("GUEST", "STATE", "FROM", "TO", "JOB", "COPIED", "LEFT", "REMARK")
STYLES = {GuestState.MOVING: "bold cyan", GuestState.MOVED: "green", GuestState.SKIPPED: "bold red"}
INTERVAL_S = 1.0


def cells(row: Row) -> tuple[object, ...]:
    """One guest as a line of the table."""
    guest = row.guest
    copied = f"{size(row.bytes_copied)} of {size(row.bytes_total)}" if row.job else None
    left = span(row.eta_s) if row.eta_s is not None else None
    return guest.guest, guest.state, guest.source, guest.destination, guest.job_id, copied, left, public(row.reason)


def exit_code(shot: DrainShot) -> ExitCode:
    """The exit code of a command that ends with a drain in this state; 0 for a drain that goes on."""
    if shot.drain.state is DrainState.INCOMPLETE and any(row.needs_operator for row in shot.rows):
        return ExitCode.NEEDS_OPERATOR
    not_all_moved = {DrainState.INCOMPLETE, DrainState.CANCELLED}
    return ExitCode.ROLLED_BACK if shot.drain.state in not_all_moved else ExitCode.DONE


class DrainScreen:
    """Draws the table of all guests in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> "DrainScreen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, shot: DrainShot) -> None:
        """Draw the drain as it is now."""
        left = f", {span(shot.eta_s)} left" if shot.eta_s is not None else ""
        self._live.update(Group(output.cell(headline(shot) + left, "bold"), _table(shot.rows)), refresh=True)


def _table(rows: Iterable[Row]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for title in TITLES:
        made.add_column(title, overflow="fold")
    for row in rows:
        style = STYLES.get(row.guest.state, "")
        made.add_row(*[output.cell(cell, style) for cell in cells(row)])
    return made


class DrainLines:
    """Writes a line for each change of the drain or of one of its guests, at most one a second."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, str]] = {}
        self._next_at = 0.0

    def __enter__(self) -> "DrainLines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, shot: DrainShot) -> None:
        """Write what changed; the end is always written."""
        if time.monotonic() < self._next_at and not shot.ended:
            return
        facts = {"": (standing(shot), words.gist(shot.drain.wait_reason))}
        facts |= {row.guest.guest: (_whereabouts(row), words.gist(row.reason)) for row in shot.rows}
        told = {"": headline(shot)} | {row.guest.guest: _sentence(row) for row in shot.rows}
        news = [text for key, text in told.items() if self._said.get(key) != facts[key]]
        if news:
            output.note("; ".join(news))
            self._said, self._next_at = facts, time.monotonic() + INTERVAL_S


def _whereabouts(row: Row) -> str:
    guest = row.guest
    return f"{guest.guest} {guest.state}" + (f" to {guest.destination}" if guest.destination else "")


def _sentence(row: Row) -> str:
    return _whereabouts(row) + (f" ({public(row.reason)})" if row.reason else "")


def listed(wanted: Wanted, *, as_json: bool) -> None:
    """Print a line for each drain."""
    rows = operations().drains(wanted)
    if as_json:
        output.emit({"drains": rows})
        return
    if not rows:
        output.note("no drain" if wanted.with_ended else "no drain is under way (`--all` lists those that ended)")
    names = ("id", "kind", "host", "state", "moved", "skipped", "total")
    output.table(
        ("DRAIN", "KIND", "HOST", "STATE", "MOVED", "SKIPPED", "GUESTS", "REMARK"),
        [(*(row[name] for name in names), row["error"] or row["wait_reason"]) for row in rows],
    )


def report(document: Document, *, as_json: bool) -> None:
    """Print a drain and all its guests."""
    if as_json:
        output.emit(document)
        return
    shot = read_back.drain_shot(document)
    output.say(headline(shot))
    if plan := document.get("plan"):
        approved = ", ".join(plan["approved_by"]) or "nobody"
        output.say(f"it follows plan {plan['id']}: approved by {approved}, applied by {plan['applied_by']}")
    output.table(TITLES, map(cells, shot.rows))
    if shot.ended:
        output.say(verdict(shot))


def submitted(document: Document, *, as_json: bool) -> NoReturn:
    """Print that a drain was submitted; exits with the code for that."""
    shot = read_back.drain_shot(document)
    if as_json:
        output.emit(document)
    else:
        output.say(f"{headline(shot)} (`drover drain watch {shot.drain.id}` shows it)")
    raise typer.Exit(exit_code(shot))
