"""What is said to people about a job and its steps. No I/O."""

from typing import NamedTuple

from drover.views.progress import Bar
from drover.views.queries import Snapshot
from drover.views.serializers import public, took
from drover.words import count, rate, size, span
from models.base import Document
from models.documents import Estimate, Health, Proof
from models.job import Job, JobState, Step


def headline(job: Job) -> str:
    """The job's number, guest and hosts."""
    return f"job {job.id}: {job.guest} from {job.source} to {job.destination}"


def standing(job: Job) -> str:
    """Its state, and why it waits."""
    return f"{job.state}, {public(job.wait_reason)}" if job.wait_reason else str(job.state)


def remark(step: Step) -> str:
    """What is unusual about a step."""
    tries = f"attempt {step.attempts}" if step.attempts > 1 else ""
    return ": ".join(part for part in (tries, public(step.error) or "") if part)


def pace(bar: Bar) -> str:
    """Rate and remaining time."""
    now = rate(bar.bytes_per_s)
    return now if bar.eta_s is None else f"{now}, {span(bar.eta_s)} left"


def estimate(expected: Estimate) -> str:
    """How long a move takes, and by what that is known."""
    limit = f", limited to {rate(expected.limit_bytes_per_s)}" if expected.limit_bytes_per_s else ""
    basis = (
        f"by the last {count(expected.moves, 'move')}" if expected.moves else "assumed, because nothing was moved yet"
    )
    pause = "" if expected.downtime_ms is None else f"; the guest stands still for about {expected.downtime_ms:.0f} ms"
    return (
        f"about {span(expected.total_s)} ({basis}): {span(expected.copy_s)} for {size(expected.copy_bytes)} of disks"
        f"{limit}, {span(expected.switch_s)} for the rest{pause}"
    )


def comparison(shot: Snapshot) -> list[tuple[str, str, str]]:
    """What was expected of each part of a move, and what it took: (part, expected, took)."""
    job, expected = shot.job, shot.job.estimate
    if expected is None:
        return []
    known = took(job)
    copying, sending = known["copy_s"], known["ram_s"]
    ended = shot.ended and shot.total_s is not None and copying is not None and sending is not None
    rest = (shot.total_s or 0.0) - (copying or 0.0) - (sending or 0.0) if ended else None
    pause = "" if expected.downtime_ms is None else f"{expected.downtime_ms:.0f} ms"
    return [
        ("copy of the disks", span(expected.copy_s), span(copying)),
        ("RAM", span(expected.ram_s), span(sending)),
        ("the rest, waits in sync included", span(expected.switch_s - expected.ram_s), span(rest)),
        ("in all", span(expected.total_s), span(shot.total_s)),
        ("downtime", pause, downtime(job)),
    ]


def left(shot: Snapshot) -> str:
    """How long it still takes; empty: it has ended, or nobody knows."""
    return f"about {span(shot.eta_s)} left" if shot.eta_s is not None else ""


def verdict(shot: Snapshot) -> str:
    """One line on how the job ended."""
    job = shot.job
    if job.state is JobState.DONE and job.cancel_requested:
        late = "its switchover came before the cancellation"
        return f"done: {job.guest} lives on {job.destination}; {late}; {_figures(shot)}"
    if job.state is JobState.DONE:
        but = f"; but it was {told}" if (told := unwell(job)) else ""
        return f"done: {job.guest} lives on {job.destination}; {_figures(shot)}{but}"
    why = public(job.error) or "no reason was recorded"
    if job.state is JobState.ROLLED_BACK:
        return f"rolled back: {job.guest} stays on {job.source}; {why}"
    return f"needs an operator: {why} (`drover job explain {job.id}` shows what led to it)"


def _figures(shot: Snapshot) -> str:
    disks, anew = (sum(getattr(d, of) for d in shot.job.disks) for of in ("bytes_size", "bytes_rewritten"))
    written = f" (and {size(anew)} that the guest wrote anew meanwhile)" if anew else ""
    figures = f"{size(disks)} of disks{written} in {span(shot.total_s)}"
    return figures + (f", guest paused for {pause}" if (pause := downtime(shot.job)) else "")


def unwell(job: Job) -> str | None:
    """What was wrong with the guest when it had arrived."""
    return health(job.health) if job.health is not None and job.health.problems else None


def health(found: Health) -> str:
    """How the guest was when it had arrived."""
    if found.problems:
        return f"not well: {'; '.join(map(str, map(public, found.problems)))}"
    agent = ", its agent answers" if found.agent else ""
    io = f"{count(found.reads, 'read')} and {count(found.writes, 'write')}"
    return f"well, {found.runstate} for {found.seconds:g} s, {io}, none failed{agent}"


def proof(found: Proof) -> str:
    """How the comparison of both sides' images stands, or ended."""
    if found.not_proven is not None:
        return f"not proven: {found.not_proven}"
    total, compared, equal, left_out, different = (
        sum(getattr(disk, f"bytes_{name}") for disk in found.disks)
        for name in ("total", "compared", "equal", "left_out", "different")
    )
    if not found.finished:
        return f"both sides are being compared: {size(compared)} of {size(total)}" if found.disks else "begins"
    outcome = f"{size(different)} differ" if different else "nothing differs"
    return (
        f"{size(compared)} were compared on both sides: {size(equal)} are equal, {size(left_out)} were left out "
        f"because the guest has written them since, {outcome}"
    )


def places(found: Proof) -> list[str]:
    """Where the images differ."""
    return [
        f"disk {disk.index}: {place.length} bytes from {place.offset} on differ"
        for disk in found.disks
        for place in disk.different
    ]


def downtime(job: Job) -> str:
    """How long the guest stood still, for people."""
    ms = job.downtime.ms if job.downtime is not None else None
    return "" if ms is None else f"{ms:.0f} ms"


class Command(NamedTuple):
    """What a person may enter, and its effect."""

    text: str
    effect: str


def commands(job: Job) -> list[Command]:
    """What an operator may do about a job now."""
    if job.state is JobState.NEEDS_OPERATOR:
        return decisions(job)
    found = []
    if job.held and job.state is JobState.RUNNING:
        found.append(Command(f"drover job release {job.id}", f"its RAM follows, and {job.guest} goes on there"))
    if job.state is JobState.RUNNING and job.ram is not None and job.committed_at is None and not job.cancel_requested:
        found.append(Command(f"drover job complete-now {job.id}", "tells what it costs if its RAM does not converge"))
    cancellable = job.state in {JobState.QUEUED, JobState.RUNNING} and job.committed_at is None
    if cancellable and not job.cancel_requested:
        found.append(
            Command(f"drover job cancel {job.id}", f"it is rolled back, and {job.guest} stays on {job.source}")
        )
    return found


def looked_at(job: Job) -> list[tuple[str, str]]:
    """What was found about the guest after its switchover: (what, sentence)."""
    found = []
    if job.health is not None and job.health.finished:
        found.append(("the guest was looked at", health(job.health)))
    if job.proof is not None:
        found += [("both sides' images", proof(job.proof)), *(("", place) for place in places(job.proof))]
    return found


def not_well(job: Job) -> str:
    """What its check, or the comparison of its images, had against a guest that has moved."""
    if told := unwell(job):
        return f"it was {told}"
    if job.proof is not None and job.proof.finished:
        return f"its images were compared: {proof(job.proof)}"
    return "nobody has proven that its images are equal"


def after_its_move(job: Job) -> str:
    """The same, and that it can go back."""
    return (
        f"after its move to {job.destination} {not_well(job)}; its old images are kept on {job.source} until it has "
        "gone back, or is to stay"
    )


def ways_out(job: Job) -> list[Command]:
    """What may be done about such a guest, while its old images are kept."""
    return [
        Command(
            f"drover migrate {job.guest} --back", f"it goes back to {job.source}: only what it has written is sent"
        ),
        Command(f"drover image purge --job {job.id} --last-way-back", "it stays, and its old images are deleted"),
    ]


def price(told: Document) -> str:
    """For how long a guest would stand still if its move was completed now, from the document of that."""
    left, total, rate_now = size(told["ram_left_bytes"]), size(told["ram_bytes"]), rate(told["bytes_per_s"])
    return (
        f"{told['guest']} would stand still for up to {span(told['pause_s'])} ({left} of RAM are left, at {rate_now}), "
        f"and for {span(told['pause_most_s'])} if all of its {total} have to be sent again"
    )


def decisions(job: Job) -> list[Command]:
    """The ways out for a job that needs an operator, the safest first."""
    sure = "only if you have made sure that it runs nowhere else"
    return [
        Command(f"drover reconcile {job.guest}", "asks both hosts; it goes on if their answers leave no doubt"),
        Command(f"drover job retry {job.id}", "tries the step again that failed"),
        Command(f"drover job resolve {job.id} --owner source", f"{job.guest} belongs to {job.source}: {sure}"),
        Command(
            f"drover job resolve {job.id} --owner destination", f"{job.guest} belongs to {job.destination}: {sure}"
        ),
    ]
