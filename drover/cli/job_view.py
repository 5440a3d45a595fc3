"""Display of jobs: a list, everything about one, its events; as text or as JSON."""

from math import ceil

from drover import words
from drover.cli import output
from drover.cli.backend import operations
from drover.operations import Wanted
from drover.views import queries, read_back, sentences, serializers
from drover.views.queries import Snapshot
from drover.views.sentences import downtime, headline, remark
from models.base import Document
from models.job import Job, JobState, Step
from workers.convergence import ACTIONS
from workflows import policies

TITLES = ("JOB", "GUEST", "FROM", "TO", "STATE", "STEP", "COPIED", "DOWNTIME", "TIME", "REMARK")


def listed(wanted: Wanted, *, as_json: bool) -> None:
    """Print a line for each job."""
    rows = operations().jobs(wanted)
    if as_json:
        output.emit({"jobs": rows})
        return
    if not rows:
        none = f"no job of {wanted.guest}" if wanted.guest else "no job"
        output.note(none if wanted.with_ended else f"{none} is under way (`--all` lists those that ended)")
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
    document = operations().job(job_id)
    if as_json:
        output.emit(document)
    else:
        _print(read_back.job_shot(document), document["warnings"])


def _print(shot: Snapshot, warnings: list[str]) -> None:
    job = shot.job
    output.say(f"{headline(job)}: {job.state}")
    if job.error:
        output.say(f"  {serializers.public(job.error)}")
    if job.wait_reason:
        output.say(f"  {serializers.public(job.wait_reason)}")
    for warning in warnings:
        output.note(f"warning: {warning}")
    output.say(
        f"  asked for {words.utc(job.created_at)} ({words.ago(job.created_at, shot.at)}), time "
        f"{words.span(shot.total_s) or '-'}, guest paused for {downtime(job) or '-'}"
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
    """What policies and options decided, and what was done because it did not converge."""
    if how := policies.told(job.options):
        output.say(f"  how: {words.pairs(how)}")
    for event in operations().explanation(job.id)["events"]:
        if event["action"] in ACTIONS.values():
            output.say(f"  {event['sentence']}")


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


def report(job: Document, sentence: str, *, as_json: bool) -> None:
    """Print what was done to a job, or its document."""
    if as_json:
        output.emit(job)
    else:
        output.say(sentence)


def goes_on(job: Document, *, as_json: bool) -> None:
    """Print that a job goes on."""
    report(job, f"job {job['id']} goes on (`drover job watch {job['id']}`)", as_json=as_json)


def price(price: Document, *, as_json: bool) -> None:
    """Print what completing a job now would cost."""
    if as_json:
        output.emit(price)
        return
    accepting = f"`drover job complete-now {price['job']} --pause {ceil(price['pause_most_s'])}s` accepts that"
    output.say(f"{sentences.price(price)}; nothing was changed. {accepting}")


def requested(job: Document) -> str:
    """The effect of a cancellation so far."""
    number, guest, source = job["id"], job["guest"], job["source"]
    if job["state"] == JobState.ROLLED_BACK:
        return f"job {number} is rolled back: {guest} stays on {source}"
    look = f"`drover job watch {number}` shows how it ends"
    if job["state"] == JobState.ROLLING_BACK:
        return f"job {number} is being rolled back, {guest} stays on {source}: {look}"
    unless = "unless its switchover comes first"
    return f"cancellation of job {number} is requested: {guest} stays on {source} {unless}; {look}"


def explain(job_id: int, *, as_json: bool) -> None:
    """Print a job's events."""
    told = operations().explanation(job_id)
    if as_json:
        output.emit(told)
        return
    output.say(f"job {told['id']}: {told['guest']} from {told['source']} to {told['destination']}: {told['state']}")
    for event in told["events"]:
        output.say(f"{event['at']}  {event['sentence']}  ({event['by']})")
    if told["wait_reason"]:
        output.say(f"now: {told['wait_reason']}")
