"""Submitting, cancelling and retrying jobs: write the row, commit, then wake the controller.

Everything that can be known beforehand is checked before the job exists (`preflight`); a job that exists is
completed or rolled back.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from drover import tracing, words
from drover.errors import PreconditionFailed
from models import refusal
from models.base import now
from models.controller import wake
from models.database import transaction
from models.documents import MigrationOptions, Window
from models.drain import Drain
from models.event_action import EventAction
from models.guest import Guest
from models.host import Host
from models.job import Attempt, Disk, Job, Step, record_event
from models.plan import Plan, PlannedDisk
from models.transitions import Actor, Direction, JobEvent, JobState, StepEvent, StepState
from workflows import budgets, not_there, policies, receivers, schedule
from workflows.guests import known_guest, lock_as_planned
from workflows.migration import claims, links, preflight
from workflows.submissions import is_text
from workflows.submit_options import SubmitOptions

log = logging.getLogger(__name__)


def submit(
    guest: str,
    destination: str,
    *,
    options: MigrationOptions | None = None,
    terms: SubmitOptions | None = None,
    drain_id: int | None = None,
    still_wanted: Callable[[Session, Job], None] = lambda session, job: None,
    idempotency_key: str | None = None,
    by: str = "command line",
    token: int | None = None,
    because: str = "",
) -> Job:
    """Check that the guest can be moved, and queue the job. What the options leave out policies decide.

    With an idempotency key that was used before, returns the earlier job. Asking the hosts takes a while: in the
    transaction that inserts the job `still_wanted` may still refuse it.

    Raises:
        PreconditionFailed: why not, and what to do; nothing was changed.
    """
    if idempotency_key and (earlier := _same(idempotency_key, guest, destination)):
        return earlier
    try:
        with tracing.span("submit", guest=guest, destination=destination, drain=drain_id, by=by) as span:
            asked, wanted = options or MigrationOptions(), terms or SubmitOptions()
            job, row, planned = _checked(guest, destination, asked, wanted, drained=drain_id is not None)
            job.drain_id, job.submitted_with = drain_id, token
            job.idempotency_key, job.traceparent = idempotency_key, span.traceparent
            inserted = _insert(job, row, planned, by, because, still_wanted)
            span.set(job=inserted.id, source=inserted.source)
            return inserted
    except PreconditionFailed:  # the conflict may be with this very job, submitted at the same moment
        if idempotency_key and (earlier := _same(idempotency_key, guest, destination)):
            return earlier
        raise


def _checked(
    guest: str, destination: str, asked: MigrationOptions, terms: SubmitOptions, *, drained: bool
) -> tuple[Job, Guest, Plan]:
    """A job that could be done, and the guest and its plan as they were when that was found out."""
    receivers.check(terms.webhook)
    row = known_guest(guest)
    options = policies.of(row, asked, drained=drained)
    planned = preflight.plan(row, destination, options)
    expected = preflight.estimated(row, destination, options, terms, planned)
    job = Job(
        guest=row.name,
        source=row.host,
        destination=destination,
        options=options,
        plan=planned,
        estimate=expected,
        steps=links.steps(row.host, destination),
        disks=[_disk(disk) for disk in planned.disks],
        **vars(terms),
    )
    return job, row, planned


def _same(key: str, guest: str, destination: str) -> Job | None:
    """The job submitted with this key before; one that was refused before it began does not use its key up."""
    with transaction() as session:
        if _free(session, key):
            return None
        job = session.scalars(select(Job).where(Job.idempotency_key == key)).one()
    if (job.guest, job.destination) != (guest, destination):
        raise PreconditionFailed(
            f"the key {key!r} was used for job {job.id}, which moves {job.guest} to {job.destination}: use another key"
        )
    return job


def _disk(planned: PlannedDisk) -> Disk:
    return Disk(
        index=planned.index,
        device=planned.device,
        format=planned.format,
        source_path=planned.source_path,
        destination_path=planned.destination_path,
        bytes_total=planned.virtual_size_bytes,
    )


def _insert(
    job: Job, guest: Guest, planned: Plan, by: str, because: str, still_wanted: Callable[[Session, Job], None]
) -> Job:
    try:
        with transaction() as session:
            still_wanted(session, job)
            lock_as_planned(session, guest, planned.source)
            if job.idempotency_key is not None:
                refusal.forget(session, "job", job.idempotency_key)
            session.add(job)
            session.flush()
            wanted = f"{job.guest} is to move from {job.source} to {job.destination}"
            sentence = f"{wanted}; {because}" if because else wanted
            record_event(session, job.id, by=by, action=EventAction.SUBMITTED, sentence=sentence)
            for warning in preflight.warnings(planned, job.options):
                record_event(session, job.id, by=by, action=EventAction.WARNING, sentence=warning)
            wake(session)
    except IntegrityError as error:
        raise PreconditionFailed(f"another submission with the key {job.idempotency_key!r} came first") from error
    return job


def record_refusal(
    guest: object, destination: object, idempotency_key: str, why: str, by: str, webhook: object = None
) -> Job | None:
    """Record the refusal of a submission whose sender waits for no answer.

    It is kept as a job that never began, or apart from the jobs where the guest is unknown; then returns None.
    Anything may have been sent. The record names the guest's own host where no known destination was named, and no
    message goes where none may.
    """
    told = receivers.told(webhook)
    try:
        with transaction() as session:
            if not _free(session, idempotency_key):
                return None  # the earlier job is the record
            row = session.get(Guest, guest) if is_text(guest) else None
            if row is None:
                refusal.keep(session, "job", idempotency_key, why)
                return None
            refusal.forget(session, "job", idempotency_key)
            known = session.get(Host, destination) if is_text(destination) else None
            job = Job(
                guest=row.name,
                source=row.host,
                destination=known.name if known is not None else row.host,
                state=JobState.ROLLED_BACK,
                idempotency_key=idempotency_key,
                error=why,
                webhook=told,
                finished_at=func.clock_timestamp(),
            )
            session.add(job)
            session.flush()
            job.announce(session)
            record_event(session, job.id, by=by, action=EventAction.REFUSED, sentence=why)
            return job
    except IntegrityError as error:  # the same key at the same moment
        log.warning("the refusal of the submission %r cannot be kept, nothing was changed: %s", idempotency_key, error)
        return None


def record_refused_cancellation(job_id: int, why: str, by: str) -> None:
    """Record an event of who wanted to cancel a job and may not. The sender waits for no answer."""
    with transaction() as session:
        record_event(session, job_id, by=by, action=EventAction.REFUSED, sentence=f"it is not cancelled: {why}")


def _free(session: Session, key: str) -> bool:
    """Whether a submission may use this key; a job that was refused before it began gives it back."""
    job = session.scalar(select(Job).where(Job.idempotency_key == key).with_for_update())
    if job is not None and job.refused:
        job.idempotency_key = None
        session.flush()
        return True
    return job is None


def cancel(job_id: int, by: str = "command line") -> Job:
    """Request a job's cancellation. A running step sees it when it renews its lease.

    Raises:
        PreconditionFailed: there is no such job, it has ended, waits for an operator, or is past the point of no
            return.
    """
    with transaction() as session:
        job = existing(session, job_id)
        if job.state is JobState.ROLLING_BACK:
            return job
        if job.state is JobState.NEEDS_OPERATOR:
            raise PreconditionFailed(
                f"job {job_id} has stopped and waits for an operator, it cannot be cancelled: "
                f"`drover job explain {job_id}` says why and what to do"
            )
        if job.state.finished:
            moved = job.state is JobState.DONE
            became = f"was moved to {job.destination}" if moved else f"stayed on {job.source}"
            raise PreconditionFailed(f"job {job_id} has ended: it is {job.state}, {job.guest} {became}")
        if job.committed_at is not None:
            raise PreconditionFailed(
                f"job {job_id} is past the point of no return: {job.guest} already belongs to {job.destination}"
            )
        request_end(session, job, by=by)
    return job


def request_end(session: Session, job: Job, by: str) -> None:
    """Have a job rolled back that has neither ended nor passed the point of no return. Hold its row's lock."""
    job.cancel_requested = True
    record_event(session, job.id, by=by, action=EventAction.CANCEL, sentence=f"cancellation requested by {by}")
    if job.idle:
        claims.begin_rollback(session, job, "cancelled on request", actor=Actor.OPERATOR, by=by)
    wake(session)


def release(job_id: int, by: str = "command line") -> Job:
    """Let the RAM of a job follow that was submitted with a hold.

    Raises:
        PreconditionFailed: there is no such job, it is not held, or it has ended.
    """
    with transaction() as session:
        job = existing(session, job_id)
        if job.state.settled or not job.hold:
            raise PreconditionFailed(f"job {job_id} is {job.state} and not held: there is nothing to release")
        let_ram_follow(session, job, by)
    return job


def let_ram_follow(session: Session, job: Job, by: str) -> None:
    """End a job's hold. The caller holds its row's lock."""
    job.hold, job.progress_at = False, now(session)
    record_event(
        session,
        job.id,
        by=by,
        action=EventAction.RELEASED,
        sentence="an operator released it: the RAM may follow the disks",
    )
    wake(session)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is to be different about a job or drain under way; None leaves a value as it is."""

    bandwidth_bytes_per_s: int | None = None
    max_downtime_ms: int | None = None
    priority: int | None = None
    window: Window | Literal["always"] | None = None

    def __post_init__(self) -> None:
        budgets.enough(self.bandwidth_bytes_per_s or 0)
        policies.check_pause("max_downtime_ms", self.max_downtime_ms or 1)

    @classmethod
    def of(cls, window: str | None, timezone: str, **others: int | None) -> "Changes":
        """As somebody says them; a window that is an empty text is always.

        Raises:
            PreconditionFailed: one of them cannot be that.
        """
        hours = schedule.hours(window, timezone)
        return cls(window="always" if window == "" else hours, **others)

    def apply(self, to: Job | Drain) -> None:
        """Write them down. The caller holds the row's lock. A pause longer than was allowed is allowed from then on."""
        changed = to.options.asking(
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s, max_downtime_ms=self.max_downtime_ms
        )
        longest = changed.most_downtime_ms and max(changed.most_downtime_ms, changed.max_downtime_ms)
        to.options = changed.model_copy(update={"most_downtime_ms": longest})
        to.priority = to.priority if self.priority is None else self.priority
        if self.window is not None:
            to.window = None if self.window == "always" else self.window

    def __str__(self) -> str:
        told = {name: value for name, value in vars(self).items() if value is not None}
        if isinstance(self.window, Window):
            told["window"] = schedule.Window.of(self.window)
        return words.pairs({words.option(name): policies.shown(name, value) for name, value in told.items()})


def change(job_id: int, changes: Changes, by: str = "command line") -> Job:
    """Change how a job is done while it is under way.

    Disks and RAM obey a new limit within seconds. A priority counts until the job begins, a window until an attempt at
    the switchover has begun.

    Raises:
        PreconditionFailed: there is no such job, or it has ended.
    """
    with transaction() as session:
        job = existing(session, job_id)
        if job.state.finished:
            raise PreconditionFailed(f"job {job_id} has ended, it is {job.state}: there is nothing to change")
        change_locked(session, job, changes, by)
    return job


def change_locked(session: Session, job: Job, changes: Changes, by: str) -> None:
    """The same for one whose row's lock the caller holds."""
    changes.apply(job)
    record_event(session, job.id, by=by, action=EventAction.CHANGED, sentence=f"an operator changed it: {changes}")
    wake(session)


def retry(job_id: int, by: str = "command line") -> Job:
    """Let a job that waits for a person go on from the step that failed.

    Raises:
        PreconditionFailed: there is no such job or it does not wait.
    """
    with transaction() as session:
        job = existing(session, job_id)
        if job.state is not JobState.NEEDS_OPERATOR:
            raise PreconditionFailed(f"job {job_id} is {job.state}: only a job that needs an operator can be retried")
        go_on(session, job, "an operator had it tried again", actor=Actor.OPERATOR, by=by)
        wake(session)
    return job


def go_on(session: Session, job: Job, why: str, *, actor: Actor, by: str) -> None:
    """Take a job up again where it stopped to ask an operator. The caller holds its row's lock."""
    failed = [step for step in job.steps if step.state is StepState.FAILED]
    turned = any(step.state in {StepState.TO_ROLL_BACK, StepState.ROLLED_BACK} for step in job.steps)
    rolling_back = turned or any(_was_rolling_back(session, step) for step in failed)
    for step in failed:
        step.apply(StepEvent.ROLL_BACK if rolling_back else StepEvent.REDO, actor)
    job.epoch += 1
    if not rolling_back:
        job.error, job.cancel_requested = None, False
    event = JobEvent.ROLL_BACK if rolling_back else JobEvent.GO_FORWARD
    job.apply(session, event, why, actor=actor, by=by)
    claims.end_if_nothing_is_left(session, job, actor=actor, by=by)


def _was_rolling_back(session: Session, step: Step) -> bool:
    attempt = session.get(Attempt, (step.job_id, step.token))
    return attempt is not None and attempt.direction == Direction.ROLLBACK


def existing(session: Session, job_id: int) -> Job:
    """The job with its row locked.

    Raises:
        PreconditionFailed: there is none.
    """
    job = claims.lock(session, job_id)
    if job is None:
        raise not_there.job(job_id)
    return job
