"""From the options of `drover drain` and `drover return` to a drain."""

from collections.abc import Mapping
from typing import Any

import typer

from drover import words
from drover.cli import output
from drover.cli.drain_view import exit_code
from drover.cli.exit_codes import ExitCode
from drover.cli.groups import Execution
from drover.cli.options import given
from drover.cli.watching import note_without_controller, watch_drain
from drover.views import drain_queries
from drover.views.drain_documents import drain_document, forecast_document
from drover.views.drain_sentences import headline
from models.drain import DrainKind
from workflows import policies
from workflows.drain import commands
from workflows.drain.commands import DrainRequest
from workflows.drain.planner import Forecast
from workflows.submissions import DrainSubmission


def request(kind: DrainKind, said: Mapping[str, Any]) -> DrainRequest:
    """What was asked for, as typed on the command line.

    Raises:
        PreconditionFailed: one of them is wrong; one sentence names it.
    """
    return DrainRequest.of(kind, DrainSubmission.read(given(said)))


def plan_and_submit(request: DrainRequest, key: str | None, run: Execution) -> None:
    """Print who would go where; unless it is a dry run, submit it, and watch it on request."""
    earlier, forecast = commands.submitted_or_forecast(request, key, tried=run.dry_run)
    if run.dry_run and forecast is not None:
        output.emit(forecast_document(forecast)) if run.as_json else print_forecast(forecast)
        raise typer.Exit(ExitCode.ROLLED_BACK if forecast.plan.left else ExitCode.DONE)
    if forecast is not None and not run.as_json:
        print_forecast(forecast)
    if earlier is not None and key is None:
        output.note(
            f"drain {earlier.id} does this already, it is {earlier.state}: nothing was added "
            f"(`drover drain set {earlier.id}` changes how it is done)"
        )
    drain = earlier or commands.submit(request, forecast=forecast, idempotency_key=key)
    if run.wait:
        watch_drain(drain.id, timeout_s=run.timeout, as_json=run.as_json)
    note_without_controller()
    shot = drain_queries.snapshot(drain.id)
    if run.as_json:
        output.emit(drain_document(shot))
    else:
        output.say(f"{headline(shot)}: `drover drain watch {drain.id}`")
    raise typer.Exit(exit_code(shot))


def print_forecast(forecast: Forecast) -> None:
    """Who would go where, and who would stay."""
    output.table(
        ("GUEST", "FROM", "TO", "DISKS", "MEMORY", "TIME"),
        [
            (
                move.candidate.name,
                move.candidate.source,
                move.destination,
                words.size(move.candidate.size.disk_bytes),
                words.size(move.candidate.size.memory_bytes),
                words.span(forecast.move_s(move)),
            )
            for move in forecast.plan.placements
        ],
    )
    moves = len(forecast.plan.placements)
    going, takes = words.count(moves, "guest moves", "guests move"), words.span(forecast.total_s)
    output.say(f"{going} in about {takes}, {forecast.speed.basis}")
    for night in forecast.nights:
        output.say(
            f"  in the window that opens at {night.opens:%Y-%m-%d %H:%M} UTC: {', '.join(night.guests)}, "
            f"done at about {night.done_at:%H:%M}"
        )
    for move in forecast.plan.placements:
        if decided := policies.by_policies(forecast.options[move.candidate.name]):
            output.say(f"{move.candidate.name}: {words.pairs(decided)}")
    for guest, why in sorted(forecast.plan.left.items()):
        output.say(f"{guest} stays where it is and runs on: {why}")
