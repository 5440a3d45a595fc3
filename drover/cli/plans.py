"""`drover plan`: a drain's plan as a file that is reviewed, edited, approved and applied."""

from pathlib import Path
from typing import Annotated

import typer

from drover.cli import schedule_options
from drover.cli.drains import Exclude, To
from drover.cli.groups import PlannedHow, PlannedWhen, grouped
from drover.cli.options import (
    AsJson,
    DryRun,
    HostName,
    Selected,
    Timeout,
    Wait,
    examples,
)

app = typer.Typer(no_args_is_help=True, help="Plans of drains as files: review, edit, approve, apply.")

PlanPath = Annotated[
    Path, typer.Argument(metavar="FILE", help="A plan that `drover plan drain` has written.", show_default=False)
]
Out = Annotated[
    Path, typer.Option(metavar="FILE", help="Where the plan is written; a file that is there is kept.", dir_okay=False)
]


@app.callback()
def group() -> None:
    """Plans of drains as files: review, edit, approve, apply."""


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
    how: PlannedHow,
    priority: schedule_options.Priority = 0,
    webhook: schedule_options.Webhook = None,
    as_json: AsJson = False,
) -> None:
    """Likewise for the return of the guests that were drained from a host."""
    from drover.cli import plan_file

    plan_file.write(
        "return", {"host": host, "priority": priority, "webhook": webhook} | vars(how), out, as_json=as_json
    )


@app.command(epilog=examples("drover plan show plan.yaml", "drover plan show plan.yaml --json"))
def show(path: PlanPath, as_json: AsJson = False) -> None:
    """Show a plan: who goes where, what is left, who has approved it, and what is no longer as it says."""
    from drover.cli import plan_file

    plan_file.show(path, as_json=as_json)


@app.command(epilog=examples("drover plan approve plan.yaml"))
def approve(path: PlanPath, as_json: AsJson = False) -> None:
    """Approve exactly this plan, as the user who enters this. Whoever edits it afterwards needs another approval."""
    from drover.cli import plan_file

    plan_file.approve(path, as_json=as_json)


@app.command(epilog=examples("drover plan apply plan.yaml --dry-run", "drover plan apply plan.yaml --wait"))
def apply(
    path: PlanPath, dry_run: DryRun = False, wait: Wait = False, timeout: Timeout = None, as_json: AsJson = False
) -> None:
    """Begin a drain that follows a plan: nobody else is moved, and nobody is sent elsewhere.

    Each guest is compared with the plan right before its turn; one that differs is left, and its reason says what.
    """
    from drover.cli import plan_file

    plan_file.apply(path, dry_run=dry_run, wait=wait, timeout=timeout, as_json=as_json)
