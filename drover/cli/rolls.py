"""`drover roll`: rolling maintenance, hosts taken out in their turn."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from drover.cli import completion
from drover.cli.drains import Exclude, To
from drover.cli.groups import Execution, Watching, grouped
from drover.cli.lazy import ShortForSubmit
from drover.cli.options import AsJson, Bandwidth, MaxDowntime, Selected, Since, Timeout, duration, examples

app = typer.Typer(
    cls=ShortForSubmit,
    no_args_is_help=True,
    help="Take hosts out for maintenance in their turn: drain, hook, return, next.",
)

RollId = Annotated[int, typer.Argument(metavar="ID", help="The roll's number.", show_default=False)]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="HOST",
        help="A host to be taken out, in this order; repeat it.",
        autocompletion=completion.hosts,
        show_default=False,
    ),
]
MaxUnavailable = Annotated[
    int, typer.Option(metavar="N", min=1, help="So many of these hosts may be out at a time, whatever the cause.")
]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which hosts are taken out, for what, and how their guests are moved meanwhile."""

    hook: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A program in the folder DROVER_HOOKS of the control nodes, with its arguments: it runs there once a "
            "host is empty, and reboots it or has its worker started anew.",
            show_default=False,
        ),
    ]
    host: Hosts = None
    selector: Annotated[
        str | None,
        typer.Option(
            "--hosts",
            metavar="SELECTOR",
            help="All hosts with these labels, by name: 'rack=r1' or 'rack=r1,!spare'.",
            show_default=False,
        ),
    ] = None
    max_unavailable: MaxUnavailable = 1
    hook_timeout: Annotated[
        Any, typer.Option(metavar="TIME", parser=duration, help="The hook is ended after this time.")
    ] = "1h"
    back_within: Annotated[
        Any,
        typer.Option(
            metavar="TIME", parser=duration, help="The roll pauses if a host is not healthy this long after its hook."
        ),
    ] = "30m"
    to: To = None
    exclude: Exclude = None
    max_downtime_ms: MaxDowntime = None
    bandwidth: Bandwidth = None
    webhook: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Report each step of the roll to this address, by a signed POST.",
            show_default=False,
        ),
    ] = None

    def fields(self) -> dict[str, Any]:
        """Those of a submission."""
        return {"hosts" if name == "host" else name: value for name, value in vars(self).items()}


@app.callback()
def group() -> None:
    """Take hosts out for maintenance in their turn. `drover roll --host H --hook NAME` begins."""


@app.command(
    epilog=examples(
        "drover roll --host hv1 --host hv2 --hook upgrade-and-reboot --dry-run",
        "drover roll submit --hosts rack=r1 --hook 'upgrade-and-reboot --kernel 6.12' --wait",
    )
)
@grouped
def submit(wanted: Wanted, run: Execution) -> None:
    """Take hosts out one after the other: drain, hook, wait until the host is healthy again, return, next.

    It goes on whatever dies, and pauses on the first failure (exit code 4 with --wait): `drover roll resume` tries that
    again.
    """
    from drover.cli import roll_submission

    roll_submission.plan_and_submit(roll_submission.asked(wanted.fields()), run)


@app.command("list", epilog=examples("drover roll list", "drover roll list --all --json"))
def list_rolls(
    everything: Annotated[bool, typer.Option("--all", help="Those that have ended as well.")] = False,
    selector: Selected = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The newest N.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the rolls that have not ended, newest first. A selector names those of one of whose hosts it holds."""
    from drover.cli import roll_view
    from drover.operations import Wanted

    roll_view.listed(Wanted(everything=everything, selector=selector, since=since, limit=limit), as_json=as_json)


@app.command(epilog=examples("drover roll show 3", "drover roll show 3 --json"))
def show(roll_id: RollId, as_json: AsJson = False) -> None:
    """Show a roll and all its hosts."""
    from drover.cli import roll_view
    from drover.cli.backend import operations

    roll_view.report(operations().roll(roll_id), as_json=as_json)


@app.command(epilog=examples("drover roll watch 3"))
def watch(roll_id: RollId, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Show a roll until it ends, or pauses because something failed. Ctrl-C leaves it running."""
    from drover.cli import watching

    watching.watch_roll(roll_id, timeout_s=timeout, as_json=as_json)


@app.command(epilog=examples("drover roll pause 3"))
def pause(roll_id: RollId, as_json: AsJson = False) -> None:
    """Begin nothing else of it; a drain, a hook or a return under way ends by itself."""
    from drover.cli import roll_view
    from drover.cli.backend import operations

    roll_view.report(operations().on_roll(roll_id, "pause"), as_json=as_json)


@app.command(epilog=examples("drover roll resume 3"))
def resume(roll_id: RollId, as_json: AsJson = False) -> None:
    """Go on after a pause. What has failed is tried again: guests that were left, the hook, the wait for a host."""
    from drover.cli import roll_view
    from drover.cli.backend import operations

    roll_view.report(operations().on_roll(roll_id, "resume"), as_json=as_json)


@app.command("set", epilog=examples("drover roll set 3 --max-unavailable 2"))
def change(roll_id: RollId, max_unavailable: MaxUnavailable, as_json: AsJson = False) -> None:
    """Change how many of its hosts may be out at a time. Those that are out already go on."""
    from drover.cli import roll_view
    from drover.cli.backend import operations

    roll_view.report(operations().change_roll(roll_id, max_unavailable), as_json=as_json)


@app.command(epilog=examples("drover roll cancel 3", "drover roll cancel 3 --wait"))
@grouped
def cancel(roll_id: RollId, *, run: Watching, as_json: AsJson = False) -> None:
    """End a roll: its drains and returns under way are cancelled, a hook that works is left to its end."""
    from drover.cli import roll_view, watching
    from drover.cli.backend import operations

    roll = operations().on_roll(roll_id, "cancel")
    if run.wait:
        watching.watch_roll(roll_id, timeout_s=run.timeout, as_json=as_json)
    roll_view.report(roll, as_json=as_json)
