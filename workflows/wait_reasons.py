"""Why a job or a drain does not go on, in one sentence with the command that changes it.

What a decision found out stands in the row (`wait_reason`: no slot, no room, its window, no broker); `admission`, the
controller and `migrate_ram` write it. What time alone brings about does not, because nobody may be there to write it: a
silent host, a step that nobody takes up, a copy that the guest outruns. Who shows a job completes the sentence here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Float, ScalarSelect, cast, func, select
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.orm.attributes import set_committed_value

from drover import words
from drover.settings import settings
from models.drain import Drain, DrainGuest, DrainState, GuestState
from models.host import Host
from models.job import Job, JobState, Step
from models.roll import Roll, RollHost, RollHostState, RollState
from models.transitions import CLAIMED
from workflows.migration.links import StepName

STILL = timedelta(seconds=30)
"""A job without progress for this long says so."""
UNCLAIMED = timedelta(seconds=5)
"""A step that is due and was not taken up for this long says so."""

UNATTENDED = "no controller is active: start `drover controller`"
UNDECIDED = "the controller decides in a moment whether it may begin"
OWN = 0.99
"""A limit that is this part of what was asked for a move, or more, is that one: each disk has a whole number of it."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a job depends on, as it is at one moment."""

    at: datetime
    """By the database's clock."""
    silences_s: Mapping[str, float]
    """{host: for how long its worker has sent no heartbeat, in seconds}."""
    patience_s: float
    """A host is silent after that long."""
    controlled: bool
    """A controller is active."""

    def silent(self, *hosts: str) -> str | None:
        """Which of them are silent, as a sentence."""
        told = [
            f"{host} is silent for {words.clock(self.silences_s[host])} (is its worker down?)"
            for host in hosts
            if self.silences_s.get(host, 0.0) > self.patience_s
        ]
        return " and ".join(told) or None


def silences() -> tuple[ScalarSelect[float], ScalarSelect[float]]:
    """For how long the source and the destination of a job have sent no heartbeat, in seconds.

    Parts of a statement that selects the job.
    """
    return _silence(Job.source), _silence(Job.destination)


def _silence(host: InstrumentedAttribute[str]) -> ScalarSelect[float]:
    age = cast(func.extract("epoch", func.now() - Host.heartbeat_at), Float)
    return select(age).where(Host.name == host).correlate(Job).scalar_subquery()


def complete(job: Job, at: datetime, source_s: float, destination_s: float, *, controlled: bool) -> None:
    """Have a job's `wait_reason` say all of it. Nothing is written: the row is to be shown."""
    silences_s = {job.source: source_s, job.destination: destination_s}
    patience_s = settings().host_timeout.total_seconds()
    conditions = Conditions(at=at, silences_s=silences_s, patience_s=patience_s, controlled=controlled)
    set_committed_value(job, "wait_reason", of_job(job, conditions))


def of_job(job: Job, conditions: Conditions) -> str | None:
    """Why it does not go on, or what slows it down; None if it goes on, or has ended. No I/O."""
    if job.state.finished:
        return None
    if job.state is JobState.NEEDS_OPERATOR:
        return f"an operator must decide: `drover job explain {job.id}` says what to do"
    at_work = next((step for step in job.steps if step.state in CLAIMED), None)
    reasons = (
        None if conditions.controlled or at_work is not None else UNATTENDED,
        job.wait_reason,
        _silent(job, at_work, conditions),
        at_work.error if at_work is not None else None,
        _held(job),
        _not_taken_up(job, conditions) if at_work is None else None,
        None if at_work is None else _slow(job, at_work.name),
        _still(job, at_work, conditions),
        UNDECIDED if job.state is JobState.QUEUED else None,
    )
    told = [reason for reason in reasons if reason]
    return told[0] if told else None


def of_step(job: Job, name: str, remark: str | None) -> str | None:
    """The same as far as the step knows it that is at work, by what it has loaded of its job. No I/O.

    Args:
        job: whose.
        name: of the step.
        remark: what it has said of what holds it up.
    """
    return job.wait_reason or remark or _held(job) or _slow(job, name)


def _silent(job: Job, at_work: Step | None, conditions: Conditions) -> str | None:
    """The host of the next step holds the job up; the other one may let this step go on."""
    told = conditions.silent(job.source, job.destination)
    if told is None:
        return None
    remedy = "start it there" + ("" if job.committed_at is not None else f", or `drover job cancel {job.id}`")
    if at_work is not None and conditions.silent(at_work.host) is None:
        return f"{told}; {at_work.name} on {at_work.host} goes on, what follows waits: {remedy}"
    return f"{told}: {remedy}"


def _held(job: Job) -> str | None:
    if job.state is not JobState.RUNNING or job.cancel_requested:
        return None
    if not job.hold or not _in_sync(job):
        return None
    return f"held, its disks are kept in sync, until `drover job release {job.id}`"


def _in_sync(job: Job) -> bool:
    return bool(job.disks) and all(disk.ready_at is not None for disk in job.disks)


def _not_taken_up(job: Job, conditions: Conditions) -> str | None:
    step = next(iter(job.remaining), None)
    if step is None:
        return None
    if step.next_at is not None and step.next_at > conditions.at:
        left, why = words.clock((step.next_at - conditions.at).total_seconds()), f": {step.error}" if step.error else ""
        return f"{step.name} is tried again in {left}{why}; {_ends(job)}"
    if step.enqueued_at is not None and conditions.at - step.enqueued_at > UNCLAIMED:
        waited = words.clock((conditions.at - step.enqueued_at).total_seconds())
        busy = "its worker may be busy with other steps"
        return f"{step.host} has not taken up {step.name} for {waited}: {busy}; {_ends(job)}"
    return None


def _ends(job: Job) -> str:
    """What an operator may do who does not want to wait."""
    if job.state is not JobState.RUNNING or job.committed_at is not None or job.cancel_requested:
        return f"`drover job explain {job.id}` says what led to it"
    return f"`drover job cancel {job.id}` ends the move"


def _slow(job: Job, at_work: str) -> str | None:
    if job.state is not JobState.RUNNING:
        return None
    if at_work in {StepName.MIRROR_DISKS, StepName.AWAIT_SYNC}:
        return _copying(job)
    if at_work == StepName.COPY_FILES:
        return _copying_files(job)
    return _sending(job) if at_work == StepName.MIGRATE_RAM else None


def _copying(job: Job) -> str | None:
    """A copy under a limit, or one that the guest outruns."""
    pace = job.pace
    if pace is None:
        return None
    left = sum(disk.bytes_left for disk in job.disks if disk.ready_at is None)
    if not left or not pace.copied_per_s:
        return None
    if pace.written_per_s >= pace.copied_per_s:
        slowed = f" (it is slowed to {words.rate(pace.slowed_per_s)} for each disk)" if pace.slowed_per_s else ""
        return _outrun(job, f"the guest writes {words.rate(pace.written_per_s)}{slowed}", pace.limit_per_s)
    eta = words.clock(left / (pace.copied_per_s - pace.written_per_s))
    return _limited(job, pace.limit_per_s, f"{eta} left") if pace.limit_per_s else None


def _copying_files(job: Job) -> str | None:
    """What a guest needs besides its disks, under a limit."""
    pace = job.pace
    if pace is None or not pace.limit_per_s or not pace.copied_per_s or not pace.files_left:
        return None
    return _limited(job, pace.limit_per_s, f"{words.clock(pace.files_left / pace.copied_per_s)} of its files left")


def _sending(job: Job) -> str | None:
    """RAM under a limit."""
    ram = job.ram
    if ram is None or not ram.limit_per_s or not ram.bytes_per_s or not ram.remaining:
        return None
    return _limited(job, ram.limit_per_s, f"{words.clock(ram.remaining / ram.bytes_per_s)} of its RAM left")


def _limited(job: Job, limit: int, left: str) -> str:
    return f"limited to {words.rate(limit)}, {left}: {_lifts(job, limit)}"


def _lifts(job: Job, limit: int) -> str:
    """The command that changes a limit: the move's own, or that of a budget in which it takes part."""
    asked = job.options.bandwidth_bytes_per_s
    if asked and limit >= OWN * asked:
        return f"`drover job set {job.id} --bandwidth 0` lifts it"
    return f"`drover host set {job.source} --bandwidth` changes its host's budget, `drover budget list` has the others"


def _outrun(job: Job, writes: str, limit: int) -> str:
    if limit:
        return f"{writes} and the copy is limited to {words.rate(limit)}: {_lifts(job, limit)}"
    return (
        f"{writes}, faster than its disks can be copied: `drover job cancel {job.id}` ends the move, `--ladder "
        "slow-writes` of another one has the guest slowed meanwhile"
    )


def _still(job: Job, at_work: Step | None, conditions: Conditions) -> str | None:
    last = job.progress_at or job.started_at
    kept = job.held and _in_sync(job) and not job.cancel_requested
    if last is None or kept or conditions.at - last < STILL:
        return None
    where = f"{at_work.name} on {at_work.host}" if at_work is not None else "no step is at work"
    still = words.clock((conditions.at - last).total_seconds())
    if at_work is not None and at_work.name == StepName.CHECK_GUEST:
        looks = f"{at_work.host} has looked for {still} whether it is well there (`drover job explain {job.id}`)"
        return f"{job.guest} runs on {job.destination}; {looks}"
    return f"no progress for {still} ({where}): `drover job explain {job.id}` says what led to it"


def of_drain(drain: Drain, jobs: Mapping[int, Job], *, controlled: bool) -> str | None:
    """Why it begins nothing, or what its moves wait for; None if some go on, or it has ended. No I/O.

    The reasons of its jobs are complete.
    """
    if drain.state.ended:
        return None
    if not controlled:
        return UNATTENDED
    if drain.state is DrainState.PAUSED:
        return f"paused: `drover drain resume {drain.id}`"
    if drain.wait_reason or drain.state is DrainState.QUEUED:
        return drain.wait_reason or UNDECIDED
    numbers = [row.job_id for row in drain.guests if row.state is GuestState.MOVING and row.job_id is not None]
    moving = [jobs[number] for number in numbers if number in jobs]
    held = [job for job in moving if _held(job)]
    if held and len(held) == len(moving):
        return f"{words.count(len(held), 'move is', 'moves are')} held in sync until `drover drain release {drain.id}`"
    if any(job.wait_reason is None for job in moving):
        return None
    reasons = [f"{job.guest}: {job.wait_reason}" for job in moving]
    waiting = [row for row in drain.guests if row.state is GuestState.WAITING]
    reasons += [f"{row.guest}: {of_guest(drain, row, None, controlled=controlled)}" for row in waiting]
    return "; ".join(reasons[:3]) or None


def of_guest(drain: Drain, row: DrainGuest, job: Job | None, *, controlled: bool) -> str | None:
    """Why a guest of a drain waits, is left, or its move does not go on; None if it goes on, or has moved. No I/O.

    The reason of its job is complete.
    """
    if row.state is GuestState.MOVING and job is not None and not job.state.settled:
        return job.wait_reason
    if row.state is not GuestState.WAITING or drain.state.ended:
        return row.reason
    if not controlled:
        return UNATTENDED
    if drain.state is DrainState.PAUSED:
        return f"its drain is paused: `drover drain resume {drain.id}`"
    if drain.state is DrainState.QUEUED:
        return drain.wait_reason or UNDECIDED
    return row.reason or ("its hosts are asked about it" if row.asked_at is not None else UNDECIDED)


def of_roll(roll: Roll, drains: Mapping[int, Drain], *, controlled: bool) -> str | None:
    """Why it begins nothing, or what goes on; None if it has ended. No I/O.

    The reasons of its drains are complete.
    """
    if roll.state.ended:
        return None
    if roll.state is RollState.PAUSED:
        return f"paused: `drover roll resume {roll.id}`"
    return of_hosts(roll, drains) if controlled else UNATTENDED


def of_hosts(roll: Roll, drains: Mapping[int, Drain]) -> str | None:
    """What goes on at the first of its hosts that is out, or else what the next one waits for."""
    rows = sorted((row for row in roll.hosts if not row.state.ended), key=lambda row: not row.state.out)
    return next((f"{row.host}: {why}" for row in rows if (why := of_host(row, drains)) is not None), None)


def of_host(row: RollHost, drains: Mapping[int, Drain]) -> str | None:
    """Why a host of a roll waits, or what goes on there; with what its drain waits for."""
    number = {RollHostState.DRAINING: row.drain_id, RollHostState.RETURNING: row.return_id}.get(row.state)
    drain = drains.get(number or 0)
    return "; ".join(filter(None, (row.reason, drain.wait_reason if drain is not None else None))) or None
