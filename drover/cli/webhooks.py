"""`drover webhook`: who may be told by webhooks."""

from typing import Annotated

import typer

from drover.cli import completion
from drover.cli.options import AsJson, duration, examples

app = typer.Typer(no_args_is_help=True, help="Who may be told by webhooks, each with a secret of its own.")

Receiver = Annotated[
    str,
    typer.Argument(
        metavar="RECEIVER",
        help="A host's name, or a network.",
        autocompletion=completion.receivers,
        show_default=False,
    ),
]


@app.callback()
def group() -> None:
    """Who may be told by webhooks, each with a secret of its own."""


@app.command(
    epilog=examples(
        "drover webhook allow hooks.example.org",
        "drover webhook allow hooks.example.internal --within 10.0.0.0/8",
        "drover webhook allow 10.0.0.0/8",
    )
)
def allow(
    receiver: Annotated[
        str,
        typer.Argument(metavar="RECEIVER", help="A host's name, or a network like 10.0.0.0/8.", show_default=False),
    ],
    within: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="The host may also be there, not only at public addresses; may be repeated.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let messages go to a host or a network, and say with which secret they are signed. It is shown only now."""
    from drover.cli import webhook_view
    from drover.settings import settings
    from workflows import receivers

    webhook_view.allowed(receivers.allow(receiver, within or (), settings()), as_json=as_json)


@app.command("list", epilog=examples("drover webhook list", "drover webhook list --json | jq -r '.receivers[].name'"))
def list_receivers(as_json: AsJson = False) -> None:
    """List the receivers; secrets are not shown."""
    from drover.cli import webhook_view
    from workflows import receivers

    webhook_view.listed(receivers.listed(), as_json=as_json)


@app.command(
    epilog=examples(
        "drover webhook rotate hooks.example.org",
        "drover webhook rotate hooks.example.org --overlap 0",
    )
)
def rotate(
    receivers: Annotated[
        list[str],
        typer.Argument(
            metavar="RECEIVER...",
            help="Hosts' names, or networks.",
            autocompletion=completion.receivers,
            show_default=False,
        ),
    ],
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long messages are signed with the old secret as well, like 24h.")
    ] = "24h",
    as_json: AsJson = False,
) -> None:
    """Give receivers a new secret each. It is shown only now. With `--overlap 0` the old ones end at once."""
    from drover.cli import webhook_view
    from drover.settings import settings
    from workflows.receivers import rotate

    webhook_view.rotated(rotate(receivers, duration(overlap), settings()), overlap, as_json=as_json)


@app.command(epilog=examples("drover webhook remove hooks.example.org"))
def remove(receiver: Receiver, as_json: AsJson = False) -> None:
    """Let no message go to a receiver any more, also none that waits."""
    from drover.cli import webhook_view
    from workflows import receivers

    webhook_view.removed(receivers.remove(receiver), as_json=as_json)
