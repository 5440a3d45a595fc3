"""From the options of `drover roll` to a roll."""

from collections.abc import Mapping
from typing import Any, NoReturn

import typer

from drover.cli import output
from drover.cli.backend import operations
from drover.cli.drain_submission import print_forecast
from drover.cli.exit_codes import ExitCode
from drover.cli.groups import Execution
from drover.cli.options import given
from drover.cli.watching import note_without_controller, watch_roll
from drover.views import read_back, rolls
from workflows.submissions import RollSubmission


def asked(typed: Mapping[str, Any]) -> RollSubmission:
    """What was asked for, as typed on the command line; what was not typed is None.

    Raises:
        PreconditionFailed: one of them is wrong; one sentence names it.
    """
    return RollSubmission.read(given(typed))


def plan_and_submit(asked: RollSubmission, run: Execution) -> None:
    """Begin the roll and watch it on request; a dry run asks every host who would go where."""
    if run.dry_run:
        _try(asked, as_json=run.as_json)
    roll = operations().submit_roll(asked)
    if run.wait:
        watch_roll(roll["id"], timeout_s=run.timeout, as_json=run.as_json)
    note_without_controller()
    if run.as_json:
        output.emit(roll)
    else:
        output.say(f"{rolls.headline(read_back.roll_shot(roll))} (`drover roll watch {roll['id']}` shows it)")


def _try(asked: RollSubmission, *, as_json: bool) -> NoReturn:
    told = operations().try_roll(asked)
    if as_json:
        output.emit(told)
    else:
        for one in told["drains"]:
            output.say(f"{one['host']}:")
            print_forecast(one)
    left = any(one["skipped"] for one in told["drains"])
    raise typer.Exit(ExitCode.ROLLED_BACK if left else ExitCode.DONE)
