"""`drover drain` and `drover return`: emptying a host for maintenance, and bringing its guests home."""

from typing import Annotated

import typer

from drover.cli import completion, schedule_options
from drover.cli.groups import Execution, How, RepeatedWhen, Watching, grouped
from drover.cli.lazy import ShortForSubmit
from drover.cli.options import (
    AsHtml,
    AsJson,
    GuestName,
    HostName,
    IdempotencyKey,
    NewBandwidth,
    NewMaxDowntime,
    NewPriority,
    Selected,
    Since,
    Timeout,
    examples,
)

app = typer.Typer(cls=ShortForSubmit, no_args_is_help=True, help="Empty hosts: move all guests of a host elsewhere.")

DrainId = Annotated[int, typer.Argument(metavar="ID", help="The drain's number.", show_default=False)]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="HOST",
        help="Move guests to this host only; may be repeated.",
        autocompletion=completion.hosts,
        show_default="all",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HOST",
        help="Move no guest to this host; may be repeated.",
        autocompletion=completion.hosts,
        show_default=False,
    ),
]


@app.callback()
def group() -> None:
    """Empty hosts: move all guests of a host elsewhere. `drover drain HOST` begins."""


@app.command(
    epilog=examples(
        "drover drain hv1 --dry-run",
        "drover drain hv1 --wait",
        "drover drain hv1 --selector 'tier=db,!pinned'",
        "drover drain hv1 --window 22:00-04:00 --timezone Europe/Berlin --seed-now",
        "drover drain submit hv1 --to hv2 --to hv3 --idempotency-key kernel-42 --json",
    )
)
@grouped
def submit(
    host: HostName,
    to: To = None,
    exclude: Exclude = None,
    selector: Selected = None,
    *,
    how: How,
    when: RepeatedWhen,
    idempotency_key: IdempotencyKey = None,
    run: Execution,
) -> None:
    """Empty a host: cordon it and move all its guests elsewhere, largest first.

    Guests that cannot be moved are listed and left running. It ends with the host empty and in maintenance, or with
    a list of the guests left and why (exit code 3, or 4 if an operator is needed).
    """
    from drover.cli import drain_submission
    from models.drain import DrainKind

    chosen = {"to": to or None, "exclude": exclude or None, "selector": selector or None}
    said = {"host": host, "idempotency_key": idempotency_key} | chosen | vars(how) | vars(when)
    drain_submission.plan_and_submit(DrainKind.DRAIN, drain_submission.asked(said), run)


@app.command(epilog=examples("drover drain report 3 --html >drain-3.html", "drover drain report 3 --json"))
def report(drain_id: DrainId, as_html: AsHtml = False, as_json: AsJson = False) -> None:
    """Print all about a drain as one page to be kept: a line per guest over time, and what is left and why."""
    from drover.cli import report_view

    report_view.printed("drain", drain_id, as_html=as_html, as_json=as_json)


return_app = typer.Typer(add_completion=False)


@return_app.command("return", epilog=examples("drover return hv1 --dry-run", "drover return hv1 --wait"))
@grouped
def bring_home(
    host: HostName,
    selector: Selected = None,
    *,
    how: How,
    when: RepeatedWhen,
    idempotency_key: IdempotencyKey = None,
    run: Execution,
) -> None:
    """Bring the guests home that were drained from a host, and let it take guests again."""
    from drover.cli import drain_submission
    from models.drain import DrainKind

    said = {"host": host, "selector": selector or None, "idempotency_key": idempotency_key} | vars(how) | vars(when)
    drain_submission.plan_and_submit(DrainKind.RETURN, drain_submission.asked(said), run)


@app.command("list", epilog=examples("drover drain list", "drover drain list --since 7d --json"))
def list_drains(
    everything: Annotated[bool, typer.Option("--all", help="Those that are done or cancelled as well.")] = False,
    selector: Selected = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The newest N.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the drains and returns that go on or have left something, newest first."""
    from drover.cli import drain_view
    from drover.operations import Wanted

    wanted = Wanted(everything=everything, selector=selector, since=since, limit=limit)
    drain_view.listed(wanted, as_json=as_json)


@app.command(epilog=examples("drover drain show 3", "drover drain show --key kernel-42 --json"))
def show(
    drain_id: Annotated[
        int | None, typer.Argument(metavar="ID", help="The drain's number.", show_default=False)
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="K", help="The idempotency key instead of the number.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a drain and all its guests."""
    if (drain_id is None) == (key is None):
        raise typer.BadParameter("name the drain either by its number or by --key")
    from drover.cli import drain_view
    from drover.cli.backend import operations

    number = operations().drain_of_key(key) if key is not None else drain_id
    assert number is not None
    drain_view.report(operations().drain(number), as_json=as_json)


@app.command(epilog=examples("drover drain watch 3", "drover drain watch 3 --timeout 600 --json"))
def watch(drain_id: DrainId, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Show all guests of a drain until it ends; the exit code is its result. Ctrl-C leaves it running."""
    from drover.cli import watching

    watching.watch_drain(drain_id, timeout_s=timeout, as_json=as_json)


@app.command(epilog=examples("drover drain pause 3"))
def pause(drain_id: DrainId, as_json: AsJson = False) -> None:
    """Begin no other move; those under way go on."""
    from drover.cli import drain_view
    from drover.cli.backend import operations

    drain_view.report(operations().on_drain(drain_id, "pause"), as_json=as_json)


@app.command(epilog=examples("drover drain resume 3"))
def resume(drain_id: DrainId, as_json: AsJson = False) -> None:
    """Go on after a pause, or try the guests again that an ended drain has skipped."""
    from drover.cli import drain_view
    from drover.cli.backend import operations

    drain_view.report(operations().on_drain(drain_id, "resume"), as_json=as_json)


@app.command("set", epilog=examples("drover drain set 3 --bandwidth 50M/s", "drover drain set 3 --window 22:00-04:00"))
def change(
    drain_id: DrainId,
    bandwidth: NewBandwidth = None,
    max_downtime_ms: NewMaxDowntime = None,
    window: schedule_options.NewHours = None,
    timezone: schedule_options.Timezone = "UTC",
    priority: NewPriority = None,
    as_json: AsJson = False,
) -> None:
    """Change how a drain is done, also its moves that are under way."""
    from drover.cli import drain_view
    from drover.cli.backend import operations

    changes = schedule_options.changes(bandwidth, max_downtime_ms, window, timezone, priority)
    drain_view.report(operations().change_drain(drain_id, changes), as_json=as_json)


@app.command(epilog=examples("drover drain release 3"))
def release(drain_id: DrainId, as_json: AsJson = False) -> None:
    """Let all moves of a drain go on that was submitted with --hold: the RAM is sent, the guests are moved."""
    from drover.cli import drain_view
    from drover.cli.backend import operations

    drain_view.report(operations().on_drain(drain_id, "release"), as_json=as_json)


@app.command(epilog=examples("drover drain overrule 3 db1"))
def overrule(drain_id: DrainId, guest: GuestName, as_json: AsJson = False) -> None:
    """Have a guest of a drain moved although who is asked before says no, or nothing."""
    from drover.cli import drain_view
    from drover.cli.backend import operations

    drain_view.report(operations().overrule(drain_id, guest), as_json=as_json)


@app.command(epilog=examples("drover drain cancel 3", "drover drain cancel 3 --wait"))
@grouped
def cancel(drain_id: DrainId, *, run: Watching, as_json: AsJson = False) -> None:
    """End a drain: moves under way are rolled back, guests that have moved stay, the host stays cordoned.

    A move that passed its point of no return first is completed: --wait shows where each guest is in the end.
    """
    from drover.cli import drain_view, watching
    from drover.cli.backend import operations

    drain = operations().on_drain(drain_id, "cancel")
    if run.wait:
        watching.watch_drain(drain_id, timeout_s=run.timeout, as_json=as_json)
    drain_view.report(drain, as_json=as_json)
