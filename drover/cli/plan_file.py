"""From a plan's file, or its number, to what is done with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import typer

from drover.cli import drain_submission, drain_view, output, plan_view
from drover.cli.backend import operations
from drover.cli.exit_codes import ExitCode
from drover.cli.groups import Execution
from drover.cli.options import given
from drover.cli.own_files import named as named_file
from drover.cli.watching import note_without_controller, watch_drain
from drover.errors import PreconditionFailed
from models.base import Document
from models.drain import DrainKind
from workflows.drain import plan_file
from workflows.drain.plan_file import PlanFile
from workflows.submissions import DrainSubmission


def write(kind: str, asked: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """Plan a drain, with every host asked, and write it down."""
    if out.exists():
        raise PreconditionFailed(f"{out} is there already: name another file, or remove it")
    made = operations().draft_plan(DrainKind(kind), DrainSubmission.read(given(asked)))
    plan = PlanFile.read(made["plan"])
    with named_file(out), out.open("x") as file:
        file.write(plan_file.written(plan))
    if as_json:
        output.emit(operations().look_at_plan(plan))
        return
    drain_submission.print_forecast(made["forecast"])
    output.say(f"the plan is in {out}: edit it, `drover plan submit {out}` for others, `drover plan apply {out}`")


def submit(path: Path, *, as_json: bool) -> None:
    """Put the plan in a file into the inbox."""
    made = operations().submit_plan(read(path))
    if as_json:
        output.emit(made)
        return
    plan_view.say_standing(made)
    output.say(f"`drover plan approve {made['id']}`, `drover plan apply {made['id']}`, or by the console's inbox")


def approve(named: str, *, as_json: bool) -> None:
    """Approve a plan; one in a file is submitted by that."""
    number = int(named) if named.isdecimal() else operations().submit_plan(read(Path(named)))["id"]
    plan_view.report(operations().on_plan(number, "approve"), as_json=as_json)


def apply(named: str, run: Execution) -> None:
    """Begin the drain of a plan; a dry run asks every guest and every target in it."""
    if run.dry_run:
        _try(PlanFile.of(found(named)), as_json=run.as_json)
    by_number = named.isdecimal()
    drain = operations().on_plan(int(named), "apply") if by_number else operations().apply_plan(read(Path(named)))
    if run.wait:
        watch_drain(drain["id"], timeout_s=run.timeout, as_json=run.as_json)
    note_without_controller()
    drain_view.submitted(drain, as_json=run.as_json)


def found(named: str) -> Document:
    """The document of a plan by its file, or by its number."""
    return operations().plan(int(named)) if named.isdecimal() else operations().look_at_plan(read(Path(named)))


def read(path: Path) -> PlanFile:
    """The plan in a file.

    Raises:
        PreconditionFailed: it cannot be read, or is no plan.
    """
    with named_file(path), path.open() as file:
        text = file.read(plan_file.LARGEST)
    return plan_file.read(text, str(path))


def _try(plan: PlanFile, *, as_json: bool) -> NoReturn:
    told = operations().try_plan(plan)
    if as_json:
        output.emit(told)
    else:
        drain_submission.print_forecast(told)
        for guest, why in sorted(told["differences"].items()):
            output.say(f"{guest} would be left, it is not as the plan says: {why}")
    left = {one["guest"] for one in told["skipped"]}
    refused = told["differences"].keys() | (left & plan.targets().keys())
    raise typer.Exit(ExitCode.ROLLED_BACK if refused else ExitCode.DONE)
