"""From the options of `drover roll` to a roll."""

from collections.abc import Mapping
from typing import Any

import typer

from drover.cli import output
from drover.cli.drain_submission import print_forecast
from drover.cli.exit_codes import ExitCode
from drover.cli.groups import Execution
from drover.cli.watching import note_without_controller, watch_roll
from drover.views import rolls
from drover.views.drain_documents import forecast_document
from models.database import transaction
from models.drain import DrainKind
from workflows.drain import planner
from workflows.roll import commands
from workflows.roll.commands import RollRequest
from workflows.submissions import RollSubmission


def request(typed: Mapping[str, Any]) -> RollRequest:
    """What was asked for, as typed on the command line; what was not typed is None.

    Raises:
        PreconditionFailed: one of them is wrong; one sentence names it.
    """
    given = {name: value for name, value in typed.items() if value is not None}
    return RollRequest.of(RollSubmission.read(given))


def plan_and_submit(request: RollRequest, run: Execution) -> None:
    """Begin the roll and watch it on request; a dry run asks every host who would go where."""
    if run.dry_run:
        _forecast(request, as_json=run.as_json)
    roll = commands.submit(request)
    if run.wait:
        watch_roll(roll.id, timeout_s=run.timeout, as_json=run.as_json)
    note_without_controller()
    shot = rolls.snapshot(roll.id)
    if run.as_json:
        output.emit(rolls.document(shot))
    else:
        output.say(f"{rolls.headline(shot)}: `drover roll watch {roll.id}`")


def _forecast(request: RollRequest, *, as_json: bool) -> None:
    """Each host as if it alone were out, which holds as long as one at a time is and all guests come home."""
    with transaction() as session:
        commands.check(session, request)
    forecasts = [
        forecast_document(planner.forecast(DrainKind.DRAIN, host, request.where, options=request.options, tried=True))
        for host in request.hosts
    ]
    if as_json:
        output.emit({"dry_run": True, "drains": forecasts})
    else:
        for host, one in zip(request.hosts, forecasts, strict=True):
            output.say(f"{host}:")
            print_forecast(one)
    left = any(one["skipped"] for one in forecasts)
    raise typer.Exit(ExitCode.ROLLED_BACK if left else ExitCode.DONE)
