"""`drover budget`: what several moves share."""

from typing import Annotated, Any

import typer

from drover.cli import schedule_options
from drover.cli.options import AsJson, BandwidthAt, by_hours, examples, rate

app = typer.Typer(no_args_is_help=True, help="Budgets of links and of the whole fleet, which several moves share.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The budget's name.", show_default=False)]


@app.callback()
def group() -> None:
    """Budgets of links and of the whole fleet: what moves may send together, disks and RAM."""


@app.command(
    "set",
    epilog=examples(
        "drover budget set uplink --from rack=r1 --to rack!=r1 --bandwidth 1G/s",
        "drover budget set slow --from host=hv1 --to 'host=hv7|hv8' --bandwidth 100M/s",
        "drover budget set all --bandwidth 0 --bandwidth-at 08:00-20:00=500M/s --timezone Europe/Berlin",
    ),
)
def define(
    name: Name,
    bandwidth: Annotated[
        Any, typer.Option(metavar="RATE", parser=rate, help="Like 1G/s; 0 is no limit.", show_default=False)
    ],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="LABELS", help="A selector of the hosts that moves leave.", show_default="all"),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option("--to", metavar="LABELS", help="A selector of the hosts that they go to.", show_default="all"),
    ] = None,
    bandwidth_at: BandwidthAt = None,
    timezone: schedule_options.Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Set what all moves between some hosts may send together. Moves under way obey within seconds."""
    from drover.cli import budget_view
    from workflows import budgets

    hours = by_hours(bandwidth_at or (), timezone)
    budget_view.described(budgets.define(name, source, destination, bandwidth, hours), as_json=as_json)


@app.command("list", epilog=examples("drover budget list", "drover budget list --json"))
def list_budgets(as_json: AsJson = False) -> None:
    """List the budgets that moves share."""
    from drover.cli import budget_view

    budget_view.listed(as_json=as_json)


@app.command(epilog=examples("drover budget remove uplink"))
def remove(name: Name, as_json: AsJson = False) -> None:
    """Remove a budget: moves share it no more."""
    from drover.cli import output
    from workflows import budgets

    budgets.remove(name)
    if as_json:
        output.emit({"removed": name})
    else:
        output.say(f"the budget {name} is removed")
