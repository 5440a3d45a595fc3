"""Display of jobs: a list, everything about one, its events; as text or as JSON."""

from collections.abc import Iterable
from math import ceil

from drover import words
from drover.cli import output
from drover.cli.watching import emit_job
from drover.views import documents, queries, sentences, serializers
from drover.views.queries import Snapshot
from drover.views.sentences import downtime, headline, remark
from models.base import Document
from models.job import Job, JobState, Step
from workers.convergence import ACTIONS
from workflows import policies
from workflows.migration.completion import Price

TITLES = ("JOB", "GUEST", "FROM", "TO", "STATE", "STEP", "COPIED", "DOWNTIME", "TIME", "WAITS FOR")


def listed(shots: Iterable[Snapshot], everything: bool, *, as_json: bool) -> None:
    """Print a line for each job."""
    rows = [serializers.job_summary(shot) for shot in shots]
    if as_json:
        output.emit({"jobs": rows})
        return
    if not rows:
        output.note("no job" if everything else "no job is under way (`--all` lists those that ended)")
    output.table(TITLES, map(_cells, rows))


def _cells(row: Document) -> tuple[object, ...]:
    pause = row["downtime_ms"]
    return (
        *(row[name] for name in ("id", "guest", "source", "destination", "state", "step")),
        f"{words.size(row['bytes_done'])} of {words.size(row['bytes_size'])}",
        None if pause is None else f"{pause:.0f} ms",
        words.span(row["total_s"]),
        row["wait_reason"],
    )


def show(job_id: int, *, as_json: bool) -> None:
    """Print everything about one job."""
    if as_json:
        emit_job(job_id)
    else:
        _print(queries.snapshot(job_id))


def _print(shot: Snapshot) -> None:
    job = shot.job
    output.say(f"{headline(job)}: {job.state}")
    if job.error:
        output.say(f"  {serializers.public(job.error)}")
    if job.wait_reason:
        output.say(f"  it waits: {serializers.public(job.wait_reason)}")
    for event in queries.events(job.id, "warning"):
        output.note(f"warning: {serializers.public(event.sentence)}")
    output.say(
        f"  asked for {serializers.iso(job.created_at)}, time {words.span(shot.total_s) or '-'}, "
        f"guest paused for {downtime(job) or '-'}"
    )
    _print_how(job)
    _say_estimate(shot)
    if phases := serializers.downtime_phases(job):
        output.say("  of which " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in phases.items()))
    if job.health is not None and job.health.finished:
        output.say(f"  after the switchover: {sentences.health(job.health)}")
    if job.proof is not None:
        output.say(f"  proof: {sentences.proof(job.proof)}")
        for place in sentences.places(job.proof):
            output.say(f"    {place}")
    output.table(
        ("STEP", "HOST", "STATE", "TIME", "REMARK"),
        [(step.name, step.host, step.state, words.span(_took(shot, step)), remark(step)) for step in job.steps],
    )
    output.table(
        ("DISK", "FORMAT", "COPIED", "LEFT", "WRITTEN ANEW", "DESTINATION"),
        [
            (
                disk.index,
                disk.format,
                f"{words.size(disk.bytes_done)} of {words.size(disk.bytes_size)}",
                words.size(disk.bytes_left),
                words.size(disk.bytes_rewritten),
                disk.destination_path,
            )
            for disk in job.disks
        ],
    )


def _print_how(job: Job) -> None:
    """By whose word it is moved so, and what was done because it did not converge."""
    if how := policies.told(job.options):
        output.say(f"  how: {words.pairs(how)}")
    for event in queries.events(job.id):
        if event.action in ACTIONS.values():
            output.say(f"  {serializers.public(event.sentence)}")


def _say_estimate(shot: Snapshot) -> None:
    """What was expected beside what it took, and what is left."""
    if shot.job.estimate is None:
        return
    output.say(f"  estimated {sentences.estimate(shot.job.estimate)}")
    if remaining := sentences.left(shot):
        output.say(f"  {remaining}, by what it has done so far")
    output.table(("PART", "ESTIMATE", "TOOK"), sentences.comparison(shot))


def _took(shot: Snapshot, step: Step) -> float | None:
    return queries.elapsed_s(step.started_at, step.finished_at or shot.at)


def report(job_id: int, sentence: str, *, as_json: bool) -> None:
    """Print what was done to a job, or its document."""
    if as_json:
        emit_job(job_id)
    else:
        output.say(sentence)


def goes_on(job_id: int, *, as_json: bool) -> None:
    """Print that a job goes on."""
    report(job_id, f"job {job_id} goes on (`drover job watch {job_id}`)", as_json=as_json)


def price(job_id: int, price: Price, *, as_json: bool) -> None:
    """Print what completing a job now would cost."""
    if as_json:
        bounds = {"pause_s": round(price.now_s, 3), "pause_most_s": round(price.most_s, 3)}
        output.emit({"job": job_id, "guest": price.guest, "ram_left_bytes": price.left_bytes, **bounds})
        return
    left, total, rate = words.size(price.left_bytes), words.size(price.total_bytes), words.rate(price.bytes_per_s)
    output.say(
        f"{price.guest} would stand still for up to {words.span(price.now_s)} ({left} of RAM are left, at {rate}), "
        f"and for {words.span(price.most_s)} if all of its {total} have to be sent again; nothing was changed. "
        f"`drover job complete-now {job_id} --pause {ceil(price.most_s)}s` accepts that"
    )


def requested(job: Job) -> str:
    """The effect of a cancellation so far."""
    if job.state is JobState.ROLLED_BACK:
        return f"job {job.id} is rolled back: {job.guest} stays on {job.source}"
    look = f"`drover job watch {job.id}` shows how it ends"
    if job.state is JobState.ROLLING_BACK:
        return f"job {job.id} is being rolled back, {job.guest} stays on {job.source}: {look}"
    return (
        f"cancellation of job {job.id} is requested: {job.guest} stays on {job.source} unless its switchover comes "
        f"first; {look}"
    )


def explain(job_id: int, *, as_json: bool) -> None:
    """Print a job's events."""
    job, explained = queries.snapshot(job_id).job, documents.explanation(job_id)
    if as_json:
        output.emit(explained)
        return
    output.say(f"{headline(job)}: {job.state}")
    for event in explained["events"]:
        output.say(f"{event['at']}  {event['sentence']}  ({event['by']})")
    if job.wait_reason:
        output.say(f"it waits: {serializers.public(job.wait_reason)}")
