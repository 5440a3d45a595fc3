"""`drover plan`: a drain's plan as a file that is reviewed, edited, submitted, approved and applied."""

from pathlib import Path
from typing import Annotated

import typer

from drover.cli import schedule_options
from drover.cli.drains import Exclude, To
from drover.cli.groups import Execution, PlannedHow, PlannedWhen, grouped
from drover.cli.options import (
    AsJson,
    HostName,
    Selected,
    Since,
    examples,
)

app = typer.Typer(no_args_is_help=True, help="Plans of drains: review, edit, submit, approve, apply.")

PlanPath = Annotated[
    Path, typer.Argument(metavar="FILE", help="A plan that `drover plan drain` has written.", show_default=False)
]
PlanOrNumber = Annotated[
    str,
    typer.Argument(
        metavar="FILE|ID", help="A plan: its file, or the number of one that was submitted.", show_default=False
    ),
]
Out = Annotated[
    Path, typer.Option(metavar="FILE", help="Where the plan is written; a file that is there is kept.", dir_okay=False)
]


@app.callback()
def group() -> None:
    """Plans of drains: review, edit, submit, approve, apply."""


@app.command(epilog=examples("drover plan drain hv17 --out plan.yaml", "drover plan drain hv17 --out p.yaml --to hv2"))
@grouped
def drain(
    host: HostName,
    out: Out,
    to: To = None,
    exclude: Exclude = None,
    selector: Selected = None,
    *,
    how: PlannedHow,
    when: PlannedWhen,
    as_json: AsJson = False,
) -> None:
    """Write down who would go where, in which order, why, how long it takes, and what is left and why.

    In the file, moves may be put into another order, sent elsewhere (`to`) or left (`skip: true`).
    """
    from drover.cli import plan_file

    chosen = {"host": host, "to": to or None, "exclude": exclude or None, "selector": selector}
    plan_file.write("drain", chosen | vars(how) | vars(when), out, as_json=as_json)


@app.command("return", epilog=examples("drover plan return hv17 --out home.yaml"))
@grouped
def bring_home(
    host: HostName,
    out: Out,
    selector: Selected = None,
    *,
    how: PlannedHow,
    priority: schedule_options.Priority = 0,
    webhook: schedule_options.Webhook = None,
    as_json: AsJson = False,
) -> None:
    """Likewise for the return of the guests that were drained from a host."""
    from drover.cli import plan_file

    chosen = {"host": host, "selector": selector, "priority": priority, "webhook": webhook}
    plan_file.write("return", chosen | vars(how), out, as_json=as_json)


@app.command(epilog=examples("drover plan show plan.yaml", "drover plan show 3 --json"))
def show(plan: PlanOrNumber, as_json: AsJson = False) -> None:
    """Show a plan: who goes where, what is left, who has approved it, and what is no longer as it says."""
    from drover.cli import plan_file, plan_view

    plan_view.report(plan_file.found(plan), as_json=as_json)


@app.command("list", epilog=examples("drover plan list", "drover plan list --all --json"))
def list_plans(
    everything: Annotated[bool, typer.Option("--all", help="Those that were applied or withdrawn as well.")] = False,
    selector: Selected = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The newest N.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the plans that were submitted and are not applied yet, newest first. A selector is about their hosts."""
    from drover.cli import plan_view
    from drover.operations import Wanted

    plan_view.listed(Wanted(everything=everything, selector=selector, since=since, limit=limit), as_json=as_json)


@app.command(epilog=examples("drover plan submit plan.yaml"))
def submit(path: PlanPath, as_json: AsJson = False) -> None:
    """Put a plan into the inbox, where another user reads and approves it; they need no file then."""
    from drover.cli import plan_file

    plan_file.submit(path, as_json=as_json)


@app.command(epilog=examples("drover plan approve plan.yaml", "drover plan approve 3"))
def approve(plan: PlanOrNumber, as_json: AsJson = False) -> None:
    """Approve exactly this plan, as the user who enters this. Whoever edits it afterwards needs another approval."""
    from drover.cli import plan_file

    plan_file.approve(plan, as_json=as_json)


@app.command(epilog=examples("drover plan withdraw 3"))
def withdraw(
    number: Annotated[int, typer.Argument(metavar="ID", help="The plan's number.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Take a plan out of the inbox: nobody approves or applies it any more."""
    from drover.cli import plan_view
    from drover.cli.backend import operations

    plan_view.report(operations().on_plan(number, "withdraw"), as_json=as_json)


@app.command(epilog=examples("drover plan apply plan.yaml --dry-run", "drover plan apply 3 --wait"))
@grouped
def apply(plan: PlanOrNumber, *, run: Execution) -> None:
    """Begin a drain that follows a plan: nobody else is moved, and nobody is sent elsewhere.

    Each guest is compared with the plan right before its turn; one that differs is left, and its reason says what.
    """
    from drover.cli import plan_file

    plan_file.apply(plan, run)
