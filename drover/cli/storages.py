"""`drover storage`: where images lie on hosts."""

from typing import Annotated

import typer

from drover.cli.options import AsJson, HostName, examples

app = typer.Typer(no_args_is_help=True, help="Where images lie on hosts, and the room there.")

Name = Annotated[str, typer.Argument(metavar="STORAGE", help="The storage's name on that host.", show_default=False)]


@app.callback()
def group() -> None:
    """Where images lie on hosts, and the room there. Each host's worker reports its own."""


@app.command("list", epilog=examples("drover storage list", "drover storage list --json | jq '.storages[] | .low'"))
def list_storages(as_json: AsJson = False) -> None:
    """List the storages of all hosts, with the room that is left there."""
    from drover.cli import storage_view

    storage_view.listed(as_json=as_json)


@app.command("set", epilog=examples("drover storage set hv2 guests --thin-factor 4"))
def describe(
    host: HostName,
    storage: Name,
    thin_factor: Annotated[
        float,
        typer.Option(
            metavar="N",
            help="How far it may be over-committed: of what thin disks have not written, 1/N counts. 1: all of it.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Say how far a storage may be over-committed by thin disks. It takes effect at the next decision."""
    from drover.cli import storage_view
    from workflows import storages

    storage_view.described(storages.describe(host, storage, thin_factor), as_json=as_json)
