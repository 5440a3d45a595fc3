"""`drover job`: what became of the moves."""

from typing import Annotated

import typer

from drover.cli import completion, output, queries, serializers
from drover.cli.live_view import headline, remark
from drover.cli.options import AsJson, JobId, Timeout, Wait, examples
from drover.cli.watching import downtime, emit_job, watch
from models.base import Document
from models.job import Job, JobState, Side, Step
from workflows.migration import jobs, operator_actions

app = typer.Typer(no_args_is_help=True, help="The moves: what goes on, and what became of them.")


@app.callback()
def group() -> None:
    """The moves: what goes on, and what became of them."""


@app.command("list", epilog=examples("drover job list", "drover job list --all --guest web --json"))
def list_jobs(
    everything: Annotated[bool, typer.Option("--all", help="Those that are done or rolled back as well.")] = False,
    guest: Annotated[
        str | None,
        typer.Option(help="Of this guest only.", autocompletion=completion.guests, show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The newest N.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the jobs that have not ended or wait for an operator, newest first."""
    rows = [serializers.job_summary(shot) for shot in queries.newest(everything=everything, guest=guest, limit=limit)]
    if as_json:
        output.emit({"jobs": rows})
        return
    if not rows:
        output.note("no job" if everything else "no job is under way (`--all` lists those that ended)")
    titles = ("JOB", "GUEST", "FROM", "TO", "STATE", "STEP", "COPIED", "DOWNTIME", "TIME", "WAITS FOR")
    output.table(titles, map(_cells, rows))


def _cells(row: Document) -> tuple[object, ...]:
    pause = row["downtime_ms"]
    return (
        *(row[name] for name in ("id", "guest", "source", "destination", "state", "step")),
        f"{output.size(row['bytes_copied'])} of {output.size(row['bytes_total'])}",
        None if pause is None else f"{pause:.0f} ms",
        output.span(row["total_s"]),
        row["wait_reason"],
    )


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
    number = queries.id_of(key) if key is not None else job_id
    assert number is not None
    if as_json:
        emit_job(number)
    else:
        _print(queries.snapshot(number))


def _print(shot: queries.Snapshot) -> None:
    job = shot.job
    output.say(f"{headline(job)}: {job.state}")
    if job.error:
        output.say(f"  {serializers.public(job.error)}")
    if job.wait_reason:
        output.say(f"  it waits: {job.wait_reason}")
    for event in queries.events(job.id, "warning"):
        output.note(f"warning: {serializers.public(event.sentence)}")
    output.say(
        f"  asked for {serializers.iso(job.created_at)}, time {output.span(shot.total_s) or '-'}, "
        f"guest paused for {downtime(job) or '-'}"
    )
    if phases := serializers.downtime_phases(job):
        output.say("  of which " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in phases.items()))
    output.table(
        ("STEP", "HOST", "STATE", "TIME", "REMARK"),
        [(step.name, step.host, step.state, output.span(_took(shot, step)), remark(step)) for step in job.steps],
    )
    output.table(
        ("DISK", "FORMAT", "COPIED", "DESTINATION"),
        [
            (
                disk.index,
                disk.format,
                f"{output.size(disk.bytes_copied)} of {output.size(disk.bytes_total)}",
                disk.destination_path,
            )
            for disk in job.disks
        ],
    )


def _took(shot: queries.Snapshot, step: Step) -> float | None:
    return queries.elapsed_s(step.started_at, step.finished_at or shot.at)


@app.command("watch", epilog=examples("drover job watch 7", "drover job watch 7 --timeout 60 --json"))
def watch_job(job_id: JobId, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Show a job's progress until it ends; the exit code says how. Ctrl-C leaves the job running."""
    watch(job_id, timeout_s=timeout, as_json=as_json)


@app.command(epilog=examples("drover job cancel 7", "drover job cancel 7 --wait"))
def cancel(job_id: JobId, wait: Wait = False, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Request that a job is rolled back and the guest goes on at the source. Refused past the point of no return.

    A step at work hears of it within seconds, and the switchover may be faster: --wait says how it ended, by exit code
    3 if the guest stays at the source, 0 if it was moved all the same.
    """
    job = jobs.cancel(job_id)
    if wait:
        watch(job_id, timeout_s=timeout, as_json=as_json)
    _told(job_id, _requested(job), as_json=as_json)


def _requested(job: Job) -> str:
    if job.state is JobState.ROLLED_BACK:
        return f"job {job.id} is rolled_back: {job.guest} stays on {job.source}"
    look = f"`drover job watch {job.id}` shows how it ends"
    if job.state is JobState.ROLLING_BACK:
        return f"job {job.id} is being rolled back, {job.guest} is to stay on {job.source}: {look}"
    return (
        f"cancellation of job {job.id} is requested: {job.guest} stays on {job.source} unless its switchover was "
        f"faster; {look}"
    )


@app.command(epilog=examples("drover job release 7"))
def release(job_id: JobId, as_json: AsJson = False) -> None:
    """Let the RAM of a job follow that was submitted with --hold."""
    jobs.release(job_id)
    _told(job_id, f"job {job_id} goes on (`drover job watch {job_id}`)", as_json=as_json)


@app.command(epilog=examples("drover job retry 7"))
def retry(job_id: JobId, as_json: AsJson = False) -> None:
    """Let a job that waits for an operator go on from the step that failed."""
    jobs.retry(job_id)
    _told(job_id, f"job {job_id} goes on (`drover job watch {job_id}`)", as_json=as_json)


@app.command(
    epilog=examples("drover job resolve 7 --owner destination", "drover job resolve 7 --owner source --fenced hv2")
)
def resolve(
    job_id: JobId,
    owner: Annotated[Side, typer.Option(help="The host that holds the guest.")],
    fenced: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="The other host, which you have made sure is off.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell a job that needs an operator who owns the guest, so that it can go forward or back."""
    operator_actions.resolve(job_id, owner, fenced)
    _told(job_id, f"job {job_id} goes on (`drover job watch {job_id}`)", as_json=as_json)


def _told(job_id: int, sentence: str, *, as_json: bool) -> None:
    if as_json:
        emit_job(job_id)
    else:
        output.say(sentence)


@app.command(epilog=examples("drover job explain 7"))
def explain(job_id: JobId, as_json: AsJson = False) -> None:
    """Tell a job's story: what was decided, when, by whom and why."""
    job = queries.snapshot(job_id).job
    story = [serializers.event_document(event) for event in queries.events(job_id)]
    if as_json:
        names = ("id", "guest", "source", "destination", "state", "wait_reason")
        output.emit({**{name: getattr(job, name) for name in names}, "events": story})
        return
    output.say(f"{headline(job)}: {job.state}")
    for event in story:
        output.say(f"{event['at']}  {event['sentence']}  ({event['by']})")
    if job.wait_reason:
        output.say(f"it waits: {job.wait_reason}")
