"""`drover reconcile`: where does each guest that is being moved really run?"""

from typing import Annotated

import typer

from drover.cli import completion
from drover.cli.options import AsJson, examples

app = typer.Typer(add_completion=False)


@app.command("reconcile", epilog=examples("drover reconcile", "drover reconcile web --json"))
def reconcile_guests(
    guest: Annotated[
        str | None,
        typer.Argument(help="This guest only.", autocompletion=completion.guests, show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask both hosts of every unfinished job where its guest really runs.

    A job that needs an operator goes on if the hosts' answers leave no doubt; else its choices are shown.
    """
    from drover.cli import reconcile_view

    reconcile_view.reconcile_and_tell(guest, dry_run=dry_run, as_json=as_json)
