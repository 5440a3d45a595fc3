"""Submitting, cancelling and retrying jobs: write the row, commit, then wake the controller.

Everything that can be known beforehand is checked before the job exists (`preflight`); a job that exists will be
carried through or rolled back.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from drover import tracing
from drover.errors import PreconditionFailed
from models.base import Document, now
from models.database import transaction
from models.guest import Guest
from models.host import Host
from models.job import Attempt, Disk, Job, Step, record_event
from models.transitions import Actor, Direction, JobEvent, JobState, StepEvent, StepState
from workflows.guests import known_guest, lock_as_planned
from workflows.migration import chain, claims, preflight
from workflows.submit_options import LARGEST, SubmitOptions, is_address, whole_number

log = logging.getLogger(__name__)

WAKE_CHANNEL = "drover_wake"
"""Postgres notifies the controller on it, so that it need not poll often."""


@dataclass(frozen=True, kw_only=True)
class MigrationOptions:
    """How a guest is to be moved."""

    max_downtime_ms: int = 300
    """The pause that is aimed at; RAM is copied until what is left fits."""
    bandwidth_bytes_per_s: int = 0
    """Of this job's streams; 0 leaves it to the host's budget."""

    def __post_init__(self) -> None:
        whole_number("max_downtime_ms", self.max_downtime_ms, least=1, most=LARGEST)
        whole_number("bandwidth_bytes_per_s", self.bandwidth_bytes_per_s, least=0, most=2**63 - 1)

    def document(self) -> Document:
        """As stored with the job."""
        return {"max_downtime_ms": self.max_downtime_ms, "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s}


def submit(
    guest: str,
    destination: str,
    *,
    options: MigrationOptions | None = None,
    terms: SubmitOptions | None = None,
    drain_id: int | None = None,
    still_wanted: Callable[[Session], None] = lambda session: None,
    idempotency_key: str | None = None,
    by: str = "command line",
) -> Job:
    """Check that the guest can be moved, and queue the job.

    With an idempotency key that was used before, answers the job of then. Asking the hosts takes a while: in the
    transaction that inserts the job `still_wanted` may refuse it after all.

    Raises:
        PreconditionFailed: why not, and what to do; nothing was changed.
    """
    if idempotency_key and (earlier := _same(idempotency_key, guest, destination)):
        return earlier
    try:
        with tracing.span("submit", guest=guest, destination=destination, drain=drain_id, by=by) as span:
            job, row = _checked(guest, destination, options or MigrationOptions(), terms or SubmitOptions())
            job.drain_id, job.idempotency_key, job.traceparent = drain_id, idempotency_key, span.traceparent
            inserted = _insert(job, row, by, still_wanted)
            span.set(job=inserted.id, source=inserted.source)
            return inserted
    except PreconditionFailed:  # what is in the way may be the very job, submitted at the same moment
        if idempotency_key and (earlier := _same(idempotency_key, guest, destination)):
            return earlier
        raise


def _checked(guest: str, destination: str, options: MigrationOptions, terms: SubmitOptions) -> tuple[Job, Guest]:
    """A job that could be done, and the guest as it was when that was found out."""
    row = known_guest(guest)
    planned = preflight.plan(row, destination)
    preflight.fits_its_window(row.name, terms)
    job = Job(
        guest=row.name,
        source=row.host,
        destination=destination,
        options=options.document(),
        plan=planned,
        steps=chain.steps(row.host, destination),
        disks=[_disk(disk) for disk in planned["disks"]],
        **vars(terms),
    )
    return job, row


def _same(key: str, guest: str, destination: str) -> Job | None:
    """The job submitted with this key before; one that was refused before it began does not use its key up."""
    with transaction() as session:
        job = session.scalar(select(Job).where(Job.idempotency_key == key).with_for_update())
        if job is None:
            return None
        if job.refused:
            job.idempotency_key = None
            return None
    if (job.guest, job.destination) != (guest, destination):
        raise PreconditionFailed(
            f"the key {key!r} was used for job {job.id}, which moves {job.guest} to {job.destination}: use another key"
        )
    return job


def _disk(planned: Document) -> Disk:
    return Disk(
        index=planned["index"],
        device=planned["device"],
        format=planned["format"],
        source_path=planned["source_path"],
        destination_path=planned["destination_path"],
        bytes_total=planned["virtual_size_bytes"],
    )


def _insert(job: Job, guest: Guest, by: str, still_wanted: Callable[[Session], None]) -> Job:
    try:
        with transaction() as session:
            still_wanted(session)
            lock_as_planned(session, guest, job.plan["source"])
            session.add(job)
            session.flush()
            record_event(
                session,
                job.id,
                by=by,
                action="submitted",
                sentence=f"{job.guest} is to move from {job.source} to {job.destination}",
            )
            for warning in job.plan["destination"]["warnings"]:
                record_event(session, job.id, by=by, action="warning", sentence=warning)
            wake(session)
    except IntegrityError as error:  # somebody was faster, with the same key or for the same guest
        raise PreconditionFailed(f"{job.guest} is being moved already by another job") from error
    return job


def record_refusal(
    guest: object, destination: object, idempotency_key: object, why: str, by: str, webhook: object = None
) -> Job | None:
    """Keep what became of a submission whose sender cannot be answered; None when even that is impossible.

    Anything may have been sent. The record names the guest's own host where no known destination was named, and nobody
    is told at what is no address.
    """
    try:
        with transaction() as session:
            row = session.get_one(Guest, guest)
            known = session.get(Host, destination) if isinstance(destination, str) and "\0" not in destination else None
            job = Job(
                guest=row.name,
                source=row.host,
                destination=known.name if known is not None else row.host,
                state=JobState.ROLLED_BACK,
                idempotency_key=idempotency_key,
                error=why.replace("\0", ""),
                webhook=webhook if is_address(webhook) else None,
                finished_at=func.clock_timestamp(),
            )
            session.add(job)
            session.flush()
            job.announce(session)
            record_event(session, job.id, by=by, action="refused", sentence=why.replace("\0", ""))
            return job
    except Exception as error:  # nobody knows the guest, or the key is none or in use
        log.warning("the refusal of the submission %r cannot be kept, nothing was changed: %s", idempotency_key, error)
        return None


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
    """Have a job rolled back that has neither ended nor crossed. Hold its row's lock."""
    job.cancel_requested = True
    record_event(session, job.id, by=by, action="cancel", sentence=f"cancellation requested by {by}")
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
        job.hold, job.progress_at = False, now(session)
        record_event(
            session, job_id, by=by, action="released", sentence="somebody released it: the RAM may follow the disks"
        )
        wake(session)
    return job


def retry(job_id: int, by: str = "command line") -> Job:
    """Let a job that waits for a person go on from the step that failed.

    Raises:
        PreconditionFailed: there is no such job or it does not wait.
    """
    with transaction() as session:
        job = existing(session, job_id)
        if job.state is not JobState.NEEDS_OPERATOR:
            raise PreconditionFailed(f"job {job_id} is {job.state}: only a job that needs an operator can be retried")
        go_on(session, job, "somebody had it tried again", actor=Actor.OPERATOR, by=by)
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
        raise PreconditionFailed(f"there is no job {job_id}: see `drover job list`")
    return job


def wake(session: Session) -> None:
    """Have the controller look at once when this transaction is committed."""
    session.execute(text(f"NOTIFY {WAKE_CHANNEL}"))
