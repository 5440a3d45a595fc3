"""`drover image`: images that guests left behind."""

from datetime import timedelta
from typing import Annotated, Any

import typer

from drover.cli import completion
from drover.cli.options import AsJson, DryRun, Selected, duration, examples
from drover.errors import PreconditionFailed

app = typer.Typer(no_args_is_help=True, help="Images that guests left behind: the way back, and its room.")

OfGuest = Annotated[
    str | None,
    typer.Option("--guest", metavar="GUEST", help="Of this guest.", autocompletion=completion.guests),
]
OnHost = Annotated[
    str | None,
    typer.Option("--host", metavar="HOST", help="On this host.", autocompletion=completion.hosts),
]
OfJob = Annotated[
    int | None,
    typer.Option("--job", metavar="ID", help="Left behind by this move.", autocompletion=completion.jobs),
]
OlderThan = Annotated[
    Any,
    typer.Option(
        "--older-than",
        metavar="TIME",
        parser=duration,
        help="Left behind so long ago: 90m, 24h, 7d.",
        show_default=False,
    ),
]


@app.callback()
def group() -> None:
    """Images that guests left behind, kept for the retention: a guest that goes back needs only what changed.

    Likewise the copies of moves that were rolled back once the disks were in sync: the next move there needs only that.
    """


@app.command("list", epilog=examples("drover image list", "drover image list --host hv1 --json"))
def list_images(
    guest: OfGuest = None,
    host: OnHost = None,
    job: OfJob = None,
    older_than: OlderThan = None,
    selector: Selected = None,
    as_json: AsJson = False,
) -> None:
    """List the images that are kept, the oldest first, with the room that each would give.

    Guests have left them behind, or a move that was rolled back once its disks were in sync has.
    """
    from drover.cli import image_view
    from drover.cli.backend import operations

    image_view.listed(operations().images(_which(guest, host, job, older_than), selector), as_json=as_json)


@app.command(
    epilog=examples("drover image purge --host hv1 --older-than 6h --dry-run", "drover image purge --guest web")
)
def purge(
    guest: OfGuest = None,
    host: OnHost = None,
    job: OfJob = None,
    older_than: OlderThan = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are kept.")] = False,
    last_way_back: Annotated[
        bool,
        typer.Option(
            "--last-way-back", help="Also those of guests whose check failed after the move: they cannot go back then."
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete kept images before their time. A guest that goes back later is copied as a whole.

    Those of a guest whose check failed after its move stay without --last-way-back. A host whose file system gets full
    deletes copies of moves that were rolled back, and then its oldest images, by itself, but never those.
    """
    from drover.cli import image_view
    from drover.cli.backend import operations

    which = _which(guest, host, job, older_than)
    if which.all != everything:
        raise PreconditionFailed("name either some images by --guest, --host, --job or --older-than, or --all of them")
    purged = operations().purge(which, last_way_back=last_way_back, dry_run=dry_run)
    image_view.purged(purged, as_json=as_json)


def _which(guest: str | None, host: str | None, job: int | None, older_than: timedelta | None) -> Any:
    from workflows.kept_images import Which

    return Which(guest=guest, host=host, job=job, older_than=older_than)
