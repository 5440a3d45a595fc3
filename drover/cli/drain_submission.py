"""From the options of `drover drain` and `drover return` to a drain."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import typer

from drover import words
from drover.cli import drain_view, output
from drover.cli.backend import operations
from drover.cli.exit_codes import ExitCode
from drover.cli.groups import Execution
from drover.cli.options import given
from drover.cli.watching import note_without_controller, watch_drain
from models.base import Document
from models.drain import DrainKind
from workflows import estimate
from workflows.submissions import DrainSubmission


def asked(said: Mapping[str, Any]) -> DrainSubmission:
    """What was asked for, as typed on the command line.

    Raises:
        PreconditionFailed: one of them is wrong; one sentence names it.
    """
    return DrainSubmission.read(given(said))


def plan_and_submit(kind: DrainKind, asked: DrainSubmission, run: Execution) -> None:
    """Submit a drain, print who goes where, and watch it on request; a dry run only prints that."""
    if run.dry_run:
        _try(kind, asked, as_json=run.as_json)
    made = operations().submit_drain(kind, asked)
    drain = made.document
    if made.forecast is not None and not run.as_json:
        print_forecast(made.forecast)
    if made.forecast is None and asked.idempotency_key is None:
        output.note(
            f"drain {drain['id']} does this already, it is {drain['state']}: nothing was added "
            f"(`drover drain set {drain['id']}` changes how it is done)"
        )
    if run.wait:
        watch_drain(drain["id"], timeout_s=run.timeout, as_json=run.as_json)
    note_without_controller()
    drain_view.submitted(drain, as_json=run.as_json)


def _try(kind: DrainKind, asked: DrainSubmission, *, as_json: bool) -> NoReturn:
    told = operations().try_drain(kind, asked)
    if "dry_run" not in told:  # it was submitted with this key before
        drain_view.submitted(told, as_json=as_json)
    output.emit(told) if as_json else print_forecast(told)
    raise typer.Exit(ExitCode.ROLLED_BACK if told["skipped"] else ExitCode.DONE)


def print_forecast(forecast: Document) -> None:
    """Who would go where, and who would stay."""
    if forecast["moves"]:
        _print_moves(forecast)
    elif not forecast["skipped"]:
        output.say(_nothing(forecast))
    for left in forecast["skipped"]:
        output.say(f"{left['guest']} stays where it is and runs on: {left['reason']}")


def _nothing(forecast: Document) -> str:
    if DrainKind(forecast["kind"]) is DrainKind.RETURN:
        return f"nothing would move: no such guest that was drained from {forecast['host']} is away"
    return f"nothing would move: no such guest is on {forecast['host']}"


def _print_moves(forecast: Document) -> None:
    output.table(
        ("GUEST", "FROM", "TO", "DISKS", "MEMORY", "TIME"),
        [
            (
                *(move[name] for name in ("guest", "source", "destination")),
                words.size(move["disk_bytes"]),
                words.size(move["memory_bytes"]),
                words.span(move["estimate_s"]),
            )
            for move in forecast["moves"]
        ],
    )
    moves, basis = len(forecast["moves"]), estimate.basis(forecast["estimated_from_moves"])
    going, takes = words.count(moves, "guest moves", "guests move"), words.span(forecast["total_s"])
    waits = ", the wait for its window included" if forecast["nights"] else ""
    output.say(f"{going} in about {takes}{waits}, {basis}")
    for night in forecast["nights"]:
        opens, done = (datetime.fromisoformat(night[name]) for name in ("opens", "done_at"))
        output.say(
            f"  in the window that opens at {opens:%Y-%m-%d %H:%M} UTC: {', '.join(night['guests'])}, "
            f"done at about {done:%H:%M}"
        )
    for move in forecast["moves"]:
        if move["policies"]:
            output.say(f"{move['guest']}: {words.pairs(move['policies'])}")
