"""`drover job`: list, show, watch and control moves."""

from typing import Annotated, Literal

import typer

from drover.cli import completion, schedule_options
from drover.cli.groups import Watching, grouped
from drover.cli.options import (
    AsHtml,
    AsJson,
    JobId,
    NewBandwidth,
    NewMaxDowntime,
    NewPriority,
    Selected,
    Since,
    Timeout,
    duration,
    examples,
)

app = typer.Typer(no_args_is_help=True, help="Moves: their progress and their results.")


@app.callback()
def group() -> None:
    """Moves: their progress and their results."""


@app.command("list", epilog=examples("drover job list", "drover job list --since 7d --guest web --json"))
def list_jobs(
    everything: Annotated[bool, typer.Option("--all", help="Those that are done or rolled back as well.")] = False,
    guest: Annotated[
        str | None,
        typer.Option(help="Of this guest only.", autocompletion=completion.guests, show_default=False),
    ] = None,
    selector: Selected = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The newest N.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the jobs that have not ended or wait for an operator, newest first."""
    from drover.cli import job_view
    from drover.operations import Wanted

    wanted = Wanted(everything=everything, guest=guest, selector=selector, since=since, limit=limit)
    job_view.listed(wanted, as_json=as_json)


@app.command(
    epilog=examples(
        "drover job show 7", "drover job show --key nightly-42 --json", "drover job show 7 --json | jq .downtime_ms"
    )
)
def show(
    job_id: Annotated[
        int | None,
        typer.Argument(metavar="ID", help="The job's number.", autocompletion=completion.jobs, show_default=False),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="K", help="The idempotency key instead of the number.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show everything about one job."""
    if (job_id is None) == (key is None):
        raise typer.BadParameter("name the job either by its number or by --key")
    from drover.cli import job_view
    from drover.cli.backend import operations

    number = operations().job_of_key(key) if key is not None else job_id
    assert number is not None
    job_view.show(number, as_json=as_json)


@app.command("watch", epilog=examples("drover job watch 7", "drover job watch 7 --timeout 60 --json"))
def watch_job(job_id: JobId, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Show a job's progress until it ends; the exit code is its result. Ctrl-C leaves the job running."""
    from drover.cli import watching

    watching.watch(job_id, timeout_s=timeout, as_json=as_json)


@app.command(epilog=examples("drover job cancel 7", "drover job cancel 7 --wait"))
@grouped
def cancel(job_id: JobId, *, run: Watching, as_json: AsJson = False) -> None:
    """Request that a job is rolled back and the guest goes on at the source. Refused past the point of no return.

    A running step stops within seconds; if the switchover comes first, the move is completed. --wait waits for the end:
    exit code 3 if the guest stays at the source, 0 if it was moved.
    """
    from drover.cli import job_view, watching
    from drover.cli.backend import operations

    job = operations().on_job(job_id, "cancel")
    if run.wait:
        watching.watch(job_id, timeout_s=run.timeout, as_json=as_json)
    job_view.report(job, job_view.requested(job), as_json=as_json)


@app.command(epilog=examples("drover job release 7"))
def release(job_id: JobId, as_json: AsJson = False) -> None:
    """Let a job that was submitted with --hold go on: its RAM is sent and the guest is moved."""
    from drover.cli import job_view
    from drover.cli.backend import operations

    job_view.goes_on(operations().on_job(job_id, "release"), as_json=as_json)


@app.command("set", epilog=examples("drover job set 7 --bandwidth 50M/s", "drover job set 7 --bandwidth 0 --window ''"))
def change(
    job_id: JobId,
    bandwidth: NewBandwidth = None,
    max_downtime_ms: NewMaxDowntime = None,
    window: schedule_options.NewHours = None,
    timezone: schedule_options.Timezone = "UTC",
    priority: NewPriority = None,
    as_json: AsJson = False,
) -> None:
    """Change how a job is done while it is under way."""
    from drover.cli import job_view
    from drover.cli.backend import operations

    changes = schedule_options.changes(bandwidth, max_downtime_ms, window, timezone, priority)
    operations().change_job(job_id, changes)
    job_view.show(job_id, as_json=as_json)


@app.command("complete-now", epilog=examples("drover job complete-now 7", "drover job complete-now 7 --pause 30s"))
def complete_now(
    job_id: JobId,
    pause: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The guest may stand still for up to this, like 500ms or 30s.",
            show_default="tell only",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell how long the guest would stand still if a move was completed now whose RAM does not converge; with --pause
    do so. A hold ends, and the job's own limit of bandwidth.
    """
    from drover.cli import job_view
    from drover.cli.backend import operations

    price = operations().price(job_id)
    if pause is None:
        job_view.price(price, as_json=as_json)
        return
    job_view.goes_on(operations().complete_now(job_id, duration(pause).total_seconds()), as_json=as_json)


@app.command(epilog=examples("drover job retry 7"))
def retry(job_id: JobId, as_json: AsJson = False) -> None:
    """Let a job that waits for an operator go on from the step that failed."""
    from drover.cli import job_view
    from drover.cli.backend import operations

    job_view.goes_on(operations().on_job(job_id, "retry"), as_json=as_json)


@app.command(
    epilog=examples("drover job resolve 7 --owner destination", "drover job resolve 7 --owner source --fenced hv2")
)
def resolve(
    job_id: JobId,
    owner: Annotated[Literal["source", "destination"], typer.Option(help="The host that holds the guest.")],
    fenced: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="The other host, if you made sure that it is off for good.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decide who owns the guest of a job that needs an operator, so that it can go forward or back."""
    from drover.cli import job_view
    from drover.cli.backend import operations
    from models.job import Side

    job_view.goes_on(operations().resolve(job_id, Side(owner), fenced), as_json=as_json)


@app.command(epilog=examples("drover job explain 7"))
def explain(job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job's events: what was decided, when, by whom and why."""
    from drover.cli import job_view

    job_view.explain(job_id, as_json=as_json)


@app.command(epilog=examples("drover job report 7 --html >job-7.html", "drover job report 7 --json | jq .parts"))
def report(job_id: JobId, as_html: AsHtml = False, as_json: AsJson = False) -> None:
    """Print all about a job as one page to be kept: steps, downtime by phase, events, and estimate beside outcome."""
    from drover.cli import report_view

    report_view.printed("job", job_id, as_html=as_html, as_json=as_json)
