"""From the options of `drover drain` and `drover return` to a drain."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NoReturn

import typer

from drover import words
from drover.cli import drain_view, output
from drover.cli.backend import operations
from drover.cli.exit_codes import ExitCode
from drover.cli.options import given
from drover.cli.watching import note_without_controller, watch_drain
from models.base import Document
from models.drain import DrainKind
from workflows import estimate
from workflows.submissions import DrainSubmission


def asked(
    host: str,
    *,
    to: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    selector: str | None = None,
    max_downtime_ms: int | None,
    most_downtime_ms: int | None,
    bandwidth: int | None,
    launcher_stays: bool,
    verify: bool | None,
    verify_rate: int | None,
    retention: timedelta | None,
    chain: str,
    at: str | None,
    window: str | None,
    window_end: str,
    timezone: str,
    every: str | None,
    hold: bool,
    seed_now: bool,
    priority: int,
    webhook: str | None,
    idempotency_key: str | None,
) -> DrainSubmission:
    """What was asked for, as typed on the command line.

    Raises:
        PreconditionFailed: one of them is wrong; one sentence names it.
    """
    return DrainSubmission.read(
        given(
            {
                "host": host,
                "to": to or None,
                "exclude": exclude or None,
                "selector": selector or None,
                "max_downtime_ms": max_downtime_ms,
                "most_downtime_ms": most_downtime_ms,
                "bandwidth": bandwidth,
                "chain": chain,
                "launcher_stays": launcher_stays,
                "verify": verify,
                "verify_rate": verify_rate,
                "retention": retention,
                "at": at,
                "window": window,
                "window_end": window_end,
                "timezone": timezone,
                "every": every,
                "hold": hold,
                "seed_now": seed_now,
                "priority": priority,
                "webhook": webhook,
                "idempotency_key": idempotency_key,
            }
        )
    )


def plan_and_submit(
    kind: str, asked: DrainSubmission, *, dry_run: bool, wait: bool, timeout: float | None, as_json: bool
) -> None:
    """Submit a drain, print who goes where, and watch it on request; a dry run only prints that."""
    if dry_run:
        _try(kind, asked, as_json=as_json)
    made = operations().submit_drain(DrainKind(kind), asked)
    drain = made.document
    if made.forecast is not None and not as_json:
        print_forecast(made.forecast)
    if made.forecast is None and asked.idempotency_key is None:
        output.note(
            f"drain {drain['id']} does this already, it is {drain['state']}: nothing was added "
            f"(`drover drain set {drain['id']}` changes how it is done)"
        )
    if wait:
        watch_drain(drain["id"], timeout_s=timeout, as_json=as_json)
    note_without_controller()
    drain_view.submitted(drain, as_json=as_json)


def _try(kind: str, asked: DrainSubmission, *, as_json: bool) -> NoReturn:
    told = operations().try_drain(DrainKind(kind), asked)
    if "dry_run" not in told:  # it was submitted with this key before
        drain_view.submitted(told, as_json=as_json)
    output.emit(told) if as_json else print_forecast(told)
    raise typer.Exit(ExitCode.ROLLED_BACK if told["skipped"] else ExitCode.DONE)


def print_forecast(forecast: Document) -> None:
    """Who would go where, and who would stay."""
    output.table(
        ("GUEST", "FROM", "TO", "DISKS", "MEMORY", "TIME"),
        [
            (
                *(move[name] for name in ("guest", "source", "destination")),
                output.size(move["disk_bytes"]),
                output.size(move["memory_bytes"]),
                output.span(move["estimate_s"]),
            )
            for move in forecast["moves"]
        ],
    )
    moves, basis = len(forecast["moves"]), estimate.basis(forecast["estimated_from_moves"])
    going, takes = words.count(moves, "guest moves", "guests move"), output.span(forecast["total_s"])
    output.say(f"{going} in about {takes}, {basis}")
    for night in forecast["nights"]:
        opens, done = (datetime.fromisoformat(night[name]) for name in ("opens", "done_at"))
        output.say(
            f"  in the window that opens at {opens:%Y-%m-%d %H:%M} UTC: {', '.join(night['guests'])}, "
            f"done at about {done:%H:%M}"
        )
    for move in forecast["moves"]:
        if move["policies"]:
            output.say(f"{move['guest']}: {words.pairs(move['policies'])}")
    for left in forecast["skipped"]:
        output.say(f"{left['guest']} stays where it is and runs on: {left['reason']}")
