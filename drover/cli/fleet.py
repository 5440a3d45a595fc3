"""`drover fleet`: the limits of the whole fleet."""

from typing import Annotated

import typer

from drover.cli.options import AsJson, duration, examples, rate

app = typer.Typer(no_args_is_help=True, help="Limits of the whole fleet, changed while everything runs.")


@app.callback()
def group() -> None:
    """Limits of the whole fleet, changed while everything runs."""


@app.command(epilog=examples("drover fleet show", "drover fleet show --json | jq .limits.max_moves"))
def show(as_json: AsJson = False) -> None:
    """Show the limits, and which hosts have a bandwidth or retention of their own."""
    from drover.cli import fleet_view

    fleet_view.show(as_json=as_json)


@app.command("set", epilog=examples("drover fleet set max-moves=12", "drover fleet set bandwidth=100M/s retention=48h"))
def change(
    limits: Annotated[
        list[str],
        typer.Argument(
            metavar="LIMIT=VALUE...",
            help="max-outgoing, max-incoming, max-moves, max-held, stalled-after, host-patience, bandwidth, retention, "
            "plan-approvals, signed-submissions. Durations like 90s, 10m, 24h, 7d; a bandwidth like 100M/s, 0 for no "
            "limit; yes or no.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Change limits. They take effect within seconds, also for moves under way."""
    from drover import words
    from drover.cli import fleet_view
    from workflows import fleet_limits

    wanted = dict[str, object]()
    for name, value in map(_read, limits):
        if name in wanted:
            raise typer.BadParameter(f"{words.option(name)} is given twice: leave one out")
        wanted[name] = value
    before, after = fleet_limits.change(wanted)
    fleet_view.changed(before, after, as_json=as_json)


def _read(text: str) -> tuple[str, object]:
    from models.fleet import Limits
    from workflows import fleet_limits

    spelled, equals, value = text.partition("=")
    if not equals or not value.strip():
        raise typer.BadParameter(f"{text!r} is no LIMIT=VALUE: write for example max-moves=12")
    name = fleet_limits.named(spelled)
    if name == "bandwidth_bytes_per_s":
        return name, rate(value)
    if fleet_limits.is_switch(name):
        return name, {"yes": True, "no": False}.get(value, value)
    if isinstance(Limits.model_fields[name].default, int):
        return name, value
    return name, duration(value)
