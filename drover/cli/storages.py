"""`drover storage`: where images lie on hosts."""

from typing import Annotated

import typer

from drover.cli.options import AsJson, HostName, Selected, examples

app = typer.Typer(no_args_is_help=True, help="Where images lie on hosts, and the room there.")

Name = Annotated[str, typer.Argument(metavar="STORAGE", help="The storage's name on that host.", show_default=False)]


@app.callback()
def group() -> None:
    """Where images lie on hosts, and the room there. Each host's worker reports its own."""


@app.command("list", epilog=examples("drover storage list", "drover storage list --json | jq '.storages[] | .low'"))
def list_storages(selector: Selected = None, as_json: AsJson = False) -> None:
    """List the storages of all hosts, with the room that is left there. A selector is about the hosts."""
    from drover.cli import storage_view

    storage_view.listed(selector, as_json=as_json)


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


To = Annotated[str, typer.Option("--to", metavar="HOST", help="The destination.", show_default=False)]


@app.command(
    "map",
    epilog=examples(
        "drover storage map hv1 guests --to hv2 fast", "drover storage map hv1 vg0 --to hv2 any --format qcow2"
    ),
)
def map_storage(
    host: HostName,
    storage: Name,
    to: To,
    destination_storage: Annotated[
        str, typer.Argument(metavar="THERE", help="The storage there, several (`a,b`), or `any`.", show_default=False)
    ],
    image_format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="raw|qcow2", help="The format of the images there.", show_default="as they are"
        ),
    ] = None,
    thick: Annotated[bool, typer.Option("--thick", help="All of their room is taken at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say where disks that lie in a storage of one host go when they are moved to another, also by drains."""
    from drover.cli import storage_view
    from workflows import storages

    made = storages.map_to(host, storage, to, destination_storage, image_format=image_format, thick=thick)
    storage_view.mapped(made, as_json=as_json)


@app.command("unmap", epilog=examples("drover storage unmap hv1 guests --to hv2"))
def unmap(host: HostName, storage: Name, to: To, as_json: AsJson = False) -> None:
    """Let disks that lie in a storage go to the same place below the other host's guest root again."""
    from drover.cli import storage_view
    from workflows import storages

    storage_view.unmapped(storages.unmap(host, storage, to), as_json=as_json)
