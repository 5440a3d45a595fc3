"""Completing a move now whose RAM does not converge: the guest stands still for as long as an operator accepts."""

from dataclasses import dataclass

from drover import words
from drover.errors import PreconditionFailed
from models.base import now
from models.controller import wake
from models.database import transaction
from models.documents import MOST_DOWNTIME_MS
from models.event_action import EventAction
from models.job import Job, JobState, record_event
from workflows import budgets, estimate, windows
from workflows.migration import jobs

MOST_S = MOST_DOWNTIME_MS / 1000


@dataclass(frozen=True, kw_only=True)
class Price:
    """How long a guest would stand still, in seconds."""

    guest: str
    left_bytes: int
    """Of its RAM, now; all of it if none was sent yet."""
    total_bytes: int
    bytes_per_s: float

    @property
    def now_s(self) -> float:
        """For what is left now."""
        return self.left_bytes / self.bytes_per_s

    @property
    def most_s(self) -> float:
        """If all of its RAM has to be sent meanwhile."""
        return self.total_bytes / self.bytes_per_s


def price(job_id: int) -> Price:
    """What it costs to complete a move now. Changes nothing.

    Raises:
        PreconditionFailed: there is no such job, or it cannot be completed by that.
    """
    with transaction() as session:
        job = jobs.existing(session, job_id)
        _refuse_in_vain(job, windows.is_closed(job.window, now(session)))
        assumed = estimate.speed(session).ram_bytes_per_s
    ram = job.ram if job.cutover_begun_at is not None and job.ram is not None and job.ram.total else None
    memory = job.plan.source.memory_bytes if job.plan is not None else 0
    rate = ram.bytes_per_s if ram is not None and ram.bytes_per_s else assumed
    allowed = budgets.rate_of(job, asked_bytes_per_s=0)  # its own limit will be lifted
    return Price(
        guest=job.guest,
        left_bytes=ram.remaining if ram is not None else memory,
        total_bytes=ram.total if ram is not None else memory,
        bytes_per_s=max(min(rate, allowed or rate), 1.0),
    )


def _refuse_in_vain(job: Job, closed: bool) -> None:
    if job.state is not JobState.RUNNING or job.cancel_requested:
        raise PreconditionFailed(f"job {job.id} is {job.state}: only one that is under way can be completed")
    if job.committed_at is not None:
        raise PreconditionFailed(f"job {job.id} is past the point of no return: it is being completed")
    if closed:
        raise PreconditionFailed(
            f"the window of job {job.id} is closed: `drover job set {job.id} --window ''` first, if the guest is to "
            "change hosts now"
        )
    pace, left = job.pace, sum(disk.bytes_left for disk in job.disks if disk.ready_at is None)
    if left and pace is not None and pace.copied_per_s and pace.written_per_s >= pace.copied_per_s:
        raise PreconditionFailed(
            f"{job.guest} writes {words.rate(pace.written_per_s)} and its disks are copied with "
            f"{words.rate(pace.copied_per_s)}: a pause for its RAM does not help; raise what they may take "
            f"(`drover job set {job.id} --bandwidth 0`, `drover host set {job.source} --bandwidth RATE`)"
        )


def complete_now(job_id: int, pause_s: float, by: str = "command line") -> Job:
    """Let the guest stand still for up to so many seconds, lift the job's own limit of bandwidth, and release it.

    Raises:
        PreconditionFailed: there is no such job, it cannot be completed by that, or the pause is out of range.
    """
    if not 0.001 <= pause_s <= MOST_S:
        raise PreconditionFailed(f"a pause of {pause_s:g} s cannot be asked for: allowed is 0.001 to {MOST_S:g} s")
    with transaction() as session:
        job = jobs.existing(session, job_id)
        _refuse_in_vain(job, windows.is_closed(job.window, now(session)))
        terms = {"max_downtime_ms": round(pause_s * 1000), "bandwidth_bytes_per_s": 0}
        job.options = job.options.model_copy(update=terms)
        why = f"an operator has it completed now: {job.guest} may stand still for up to {pause_s:g} s"
        record_event(session, job.id, by=by, action=EventAction.CHANGED, sentence=why)
        if job.hold:
            jobs.let_ram_follow(session, job, by)
        wake(session)
    return job
