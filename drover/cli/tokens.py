"""`drover token`: who may use the API and the console and submit by task name, and for what."""

from typing import Annotated, Literal

import typer

from drover.cli.options import AsJson, Selected, duration, examples

app = typer.Typer(
    no_args_is_help=True, help="Who may use the HTTP API and submit by task name, each with tokens of their own."
)


@app.callback()
def group() -> None:
    """Who may use the HTTP API and submit by task name, each with tokens of their own."""


@app.command(
    epilog=examples(
        "drover token add ada --scope operate --expires 90d",
        "drover token add grafana --json",
        "drover token add nightly --scope operate --only drain --host hv1 --host hv2 --selector tier=web",
    )
)
def add(
    user: Annotated[
        str, typer.Argument(metavar="USER", help="Whose it is; events of jobs name this user.", show_default=False)
    ],
    scope: Annotated[
        Literal["read", "operate", "approve"],
        typer.Option(
            help="read: look; operate: also submit, release, cancel, retry; approve: also decide who owns a guest."
        ),
    ] = "read",
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="It ends after this time, like 90d.", show_default="until it is revoked"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="submit|cancel|drain",
            help="It is for this alone, besides looking; may be repeated. submit: moves; cancel: moves and drains; "
            "drain: drains and returns.",
            show_default="all that its scope permits",
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="Guests leave and reach these hosts alone; may be repeated.", show_default="all"
        ),
    ] = None,
    selector: Selected = None,
    as_json: AsJson = False,
) -> None:
    """Make a token for a user. It is shown only now; what is stored cannot be turned into it.

    With it a program works by the API, and signs submissions by task name. One that is bound by `--only`, `--host` or
    `--selector` does nothing but move such guests.
    """
    from drover import names
    from drover.cli import token_view
    from models.access import Action, Bounds, Scope
    from workflows import access

    for name in host or ():
        names.check(name, "a host")
    if strange := set(only or ()) - set(Action):
        raise typer.BadParameter(f"--only is {', '.join(Action)}, not {', '.join(sorted(strange))}")
    bounds = Bounds(actions=tuple(map(Action, only or ())), hosts=tuple(host or ()), selector=selector)
    token, text = access.add(user, Scope(scope), duration(expires) if expires is not None else None, bounds)
    token_view.made(token, text, as_json=as_json)


@app.command("list", epilog=examples("drover token list", "drover token list --json | jq '.tokens[] | select(.valid)'"))
def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens, those that have ended too; what they prove themselves with is not shown."""
    from drover.cli import token_view
    from workflows import access

    token_view.listed(access.listed(), access.people(), as_json=as_json)


@app.command(epilog=examples("drover token person ada@example.org --scope operate"))
def person(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As the reverse proxy names somebody.", show_default=False)
    ],
    scope: Annotated[Literal["read", "operate", "approve"], typer.Option(help="What they may do; read takes it back.")],
    as_json: AsJson = False,
) -> None:
    """Say what somebody may do in the console. They need no token: the reverse proxy knows who they are."""
    from drover.cli import output
    from models.access import Scope
    from workflows import access

    access.allow(name, Scope(scope))
    if as_json:
        output.emit({"name": name, "scope": scope})
    else:
        output.say(f"{name} may {scope} in the console")


@app.command(epilog=examples("drover token revoke 3", "drover token revoke 3 --keep-submitted"))
def revoke(
    number: Annotated[int, typer.Argument(metavar="ID", help="The token's number.", show_default=False)],
    keep_submitted: Annotated[
        bool, typer.Option("--keep-submitted", help="Moves and drains that were submitted with it go on.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Refuse a token from now on; moves that were submitted with it do not begin any more, those that have begun go on.

    To change one: add another, use that, then revoke the former with `--keep-submitted`.
    """
    from drover.cli import token_view
    from workflows import access

    token_view.revoked(access.revoke(number, keep_submitted=keep_submitted), as_json=as_json)
