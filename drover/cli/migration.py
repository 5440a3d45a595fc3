"""`drover migrate`: move a guest."""

from typing import Annotated

import typer

from drover.cli import completion
from drover.cli.groups import Execution, How, When, grouped
from drover.cli.layout_options import Layout
from drover.cli.options import DropSnapshots, GuestName, IdempotencyKey, ThinFactor, examples

app = typer.Typer(add_completion=False)

Destination = Annotated[
    str | None,
    typer.Option("--to", metavar="HOST", help="Where to.", autocompletion=completion.hosts, show_default=False),
]
Back = Annotated[
    bool,
    typer.Option(
        "--back", help="To where it came from. Only what it has written since is sent while its images are kept there."
    ),
]


@app.command(
    epilog=examples(
        "drover migrate web --to hv2 --wait",
        "drover migrate web --to hv2 --dry-run",
        "drover migrate web --back --wait",
        "drover migrate web --to hv2 --bandwidth 100M/s --max-downtime-ms 50",
        "drover migrate web --to hv2 --chain flatten",
        "drover migrate web --to hv2 --verify --verify-rate 50M/s",
        "drover migrate web --to hv2 --idempotency-key nightly-42 --json",
        "drover migrate web --to hv2 --storage fast --format raw --thick",
        "drover migrate web --to hv2 --disk 0=/dev/vg0/web --overwrite-device /dev/vg0/web",
    )
)
@grouped
def migrate(
    guest: GuestName,
    to: Destination = None,
    back: Back = False,
    *,
    how: How,
    drop_snapshots: DropSnapshots = False,
    where: Layout,
    thin_factor: ThinFactor = None,
    when: When,
    idempotency_key: IdempotencyKey = None,
    run: Execution,
) -> None:
    """Move a running guest, its disks included, to another host.

    Everything that could prevent the move is checked first; a refusal (exit code 2) has changed nothing.
    """
    from drover.cli import migration_submission

    if to is None and not back:
        raise typer.BadParameter("say where it is to go: --to HOST, or --back")
    asked = {
        "guest": guest,
        "to": to,
        "back": back,
        "layout": where.field(),
        "drop_snapshots": drop_snapshots,
        "thin_factor": thin_factor,
        "idempotency_key": idempotency_key,
    }
    migration_submission.submit(asked | vars(how) | vars(when), run)
