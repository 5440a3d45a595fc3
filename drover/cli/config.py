"""`drover config`: the settings of this machine."""

import os

import typer

from drover.cli.options import AsJson, examples

app = typer.Typer(no_args_is_help=True, help="Settings of this machine: show them and check them.")


@app.callback()
def group() -> None:
    """Settings of this machine: show them and check them."""


@app.command(epilog=examples("drover config check", "drover config check --json | jq '.checks[] | select(.fix)'"))
def check(as_json: AsJson = False) -> None:
    """Check this machine with the present environment; changes nothing. Exit code 1 if something is wrong.

    Run it like the service: as the same user, with the same environment.
    """
    from drover.cli import checks

    checks.run(checks.configuration(), as_json=as_json)


@app.command(epilog=examples("drover config show", "drover config show --json"))
def show(as_json: AsJson = False) -> None:
    """Show the settings in effect and where they come from; passwords are left out."""
    from drover.cli import output
    from drover.settings import variables

    rows = [_row(variable, field.default, field.is_required()) for variable, (_, field) in variables().items()]
    if as_json:
        output.emit({"settings": rows})
        return
    output.table(("VARIABLE", "FROM", "VALUE"), [(row["variable"], row["from"], row["value"]) for row in rows])
    output.note("limits of the whole fleet: `drover fleet show`; what each setting means: docs/reference/settings.md")


def _row(variable: str, default: object, required: bool) -> dict[str, str | None]:
    from drover.settings import amount, masked

    told = os.environ.get(variable)
    if told:
        return {"variable": variable, "value": masked(variable, told), "from": "environment"}
    if required:
        return {"variable": variable, "value": None, "from": "not set"}
    return {"variable": variable, "value": amount(default), "from": "default"}
