"""Claims: who may work on a step. One row, one token, one lease.

Redis may lose a message or deliver it twice, late, or to a worker that was thought dead. So a message is
only a hint: a worker acts after it won a claim here, and only while its lease lasts. Every change of a step's
state locks the job's row first, which serialises all claims of one job; a renewal locks only its step's, so that it
waits only for other writes of the same claim.

The token of a claim is higher than that of any earlier claim of the same job: it fences off their holders.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from drover.errors import LeaseLost
from drover.settings import Settings
from models.base import now
from models.database import transaction
from models.event_action import EventAction
from models.job import Attempt, Job, Outcome, Side, Step, record_event
from models.sample import Rates
from models.transitions import CLAIMED, STEP, WAYS, Actor, Direction, JobEvent, StepEvent
from workflows.migration import claim_statements as statements
from workflows.migration import links
from workflows.migration.claim_statements import LASTED
from workflows.migration.links import Restart

T = TypeVar("T")
EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(kw_only=True)
class Claim:
    """The right to work on one step until `deadline`."""

    job: Job
    """As it was when the step was claimed, with its disks."""
    seq: int
    name: str
    side: Side
    direction: Direction
    token: int
    attempt: int
    owner: str
    cancel_requested: bool = False
    deadline: float = field(default=0.0)
    """By `time.monotonic()`: needs neither the database nor a clock shared with other hosts."""
    renewed_at: float = field(default_factory=time.monotonic)
    """When the lease was last asked for, by the same clock."""
    taken_at: datetime = EPOCH
    """By the database's clock."""
    _since: float = field(default_factory=time.monotonic)

    @property
    def job_id(self) -> int:
        """Whose step it is."""
        return self.job.id

    def now(self) -> datetime:
        """The database's clock, carried on since the claim was won: this host's own clock may be wrong."""
        return self.taken_at + timedelta(seconds=time.monotonic() - self._since)

    @property
    def tries(self) -> int:
        """Attempts so far without progress; this one included, unless it lasted."""
        return 1 if time.monotonic() >= self._since + LASTED.total_seconds() else self.attempt

    def check(self) -> None:
        """Stop a worker whose lease has run out, even when it cannot reach the database.

        Raises:
            LeaseLost: it has.
        """
        if time.monotonic() >= self.deadline:
            raise LeaseLost(f"the lease on {self.name} of job {self.job_id} has run out")


def lock(session: Session, job_id: int, *, wait: bool = True) -> Job | None:
    """The job with its row locked until the transaction ends.

    Without `wait` also None while somebody else has it locked: a frozen worker must not hold up other jobs.
    """
    return session.scalar(select(Job).where(Job.id == job_id).with_for_update(skip_locked=not wait))


def claim(
    *, job_id: int, seq: int, name: str, epoch: int, direction: Direction, host: str, owner: str, settings: Settings
) -> Claim | None:
    """Win the right to work on a step, or None: the message was late, a duplicate, forged or meant for another host."""
    asked = time.monotonic()
    step = {"of_job": job_id, "of_epoch": epoch, "of_seq": seq, "named": name, "on_host": host}
    wanted = step | {"by": owner, "ttl": settings.lease_ttl}
    with transaction() as session:
        won = _take(session, direction, wanted) or _take(session, direction, wanted)
    if won is None:
        return None
    job, side, attempts, token, taken_at = won
    return Claim(
        job=job,
        seq=seq,
        name=name,
        side=side,
        direction=direction,
        token=token,
        attempt=attempts,
        owner=owner,
        cancel_requested=job.cancel_requested,
        deadline=_deadline(asked, settings),
        renewed_at=asked,
        taken_at=taken_at,
    )


def _take(session: Session, direction: Direction, wanted: Mapping[str, Any]) -> Any:
    """The claim that was won, as `statements.TAKE` returns it, or None.

    The second statement runs while the job's lock is held, so its None is final. The first one may have read the rows
    before a transaction that it waited for.
    """
    return session.execute(statements.TAKE[direction], wanted).unique().one_or_none()


def _deadline(asked: float, settings: Settings) -> float:
    return asked + (settings.lease_ttl - settings.lease_margin).total_seconds()


def _prolonged(claim: Claim, asked: float, settings: Settings, *, cancel_requested: bool) -> None:
    """Keep the deadline of the newest renewal."""
    claim.cancel_requested = cancel_requested
    if asked > claim.renewed_at:
        claim.renewed_at, claim.deadline = asked, _deadline(asked, settings)


def renew(claim: Claim, settings: Settings) -> None:
    """Prolong the lease, and read whether the job's cancellation was requested.

    Raises:
        LeaseLost: somebody else holds the claim by now.
    """
    asked = time.monotonic()
    with transaction() as session:
        cancel = session.scalar(statements.RENEW, _held(claim) | {"ttl": settings.lease_ttl})
    _prolonged(claim, asked, settings, cancel_requested=_still_held(claim, cancel))


def note(claim: Claim, rates: Rates | None = None, /, **columns: Any) -> None:
    """Write columns of the job's row, and a sample of its rates if one is due. Errors as for `fenced`."""
    with transaction() as session:
        _still_held(claim, session.scalar(statements.note(columns), _held(claim)))
        _sample(session, claim, rates)


def progress(claim: Claim, settings: Settings, rates: Rates | None = None) -> None:
    """Write down how far the disks of `claim.job` are, and prolong the lease: one transaction, once a second.

    Reads what may have changed meanwhile: whether the job's RAM must not follow yet, how it is to be moved, and whether
    its cancellation was requested. Errors as for `renew`.
    """
    asked, job = time.monotonic(), claim.job
    each = {
        "each_index": [disk.index for disk in job.disks],
        "each_copied": [disk.bytes_copied for disk in job.disks],
        "each_total": [disk.bytes_total for disk in job.disks],
        "each_first": [disk.bytes_first for disk in job.disks],
        "each_ready": [disk.ready_at for disk in job.disks],
    }
    with transaction() as session:
        values = _held(claim) | each | {"at": job.progress_at, "pace": job.pace, "ttl": settings.lease_ttl}
        told = _still_held(claim, session.execute(statements.PROGRESS, values).one_or_none())
        _sample(session, claim, rates)
    job.hold, job.seed, job.options, job.wait_reason = told.hold, told.seed, told.options, told.wait_reason
    _prolonged(claim, asked, settings, cancel_requested=told.cancel_requested)


def _sample(session: Session, claim: Claim, rates: Rates | None) -> None:
    if rates is not None:
        figures = {"is_ram": rates.of_ram, "sent": rates.sent_per_s, "changed": rates.changed_per_s}
        session.execute(statements.SAMPLE, {"of_job": claim.job_id} | figures)


def _still_held(claim: Claim, answer: T | None) -> T:
    """What a statement answered that asks for the claim as well."""
    if answer is None:
        raise LeaseLost(f"{claim.name} of job {claim.job_id} was taken over")
    return answer


@contextmanager
def fenced(claim: Claim) -> Iterator[tuple[Session, Job, Step]]:
    """A transaction in which the claim is known to hold: all that a step writes goes through here.

    Raises:
        LeaseLost: the claim was lost; nothing is written.
    """
    with transaction() as session:
        held = _still_held(claim, session.execute(statements.HELD, _held(claim)).one_or_none())
        yield session, held[0], held[1]


def _held(claim: Claim) -> dict[str, int]:
    """Parameters by which the statements check that the claim was not taken away."""
    return {"of_job": claim.job_id, "of_seq": claim.seq, "number": claim.token, "of_epoch": claim.job.epoch}


def finish(claim: Claim) -> None:
    """Record that the step's effect is in place. After the last step the job ends as well."""
    with transaction() as session:
        _, following = _release(
            session, claim, StepEvent.FINISH, Outcome.DONE, statement=statements.FINISH[claim.direction]
        )
        if following is None:  # else Celery publishes it as the next link of the chain, right after this commit
            _end(session, session.get_one(Job, claim.job_id), actor=Actor.WORKER, by=claim.owner)


def retry(claim: Claim, error: str, wait: timedelta, restart: Restart | None = None) -> None:
    """Try again after `wait`, from this step or from the earlier one that `restart` names.

    Raises:
        IllegalTransition: the workflow has no such restart from this step.
    """
    outcome = Outcome.RETRY if restart is None else Outcome.BEGUN_ANEW
    with _released(claim, StepEvent.RETRY, outcome, error) as (session, job, step):
        step.next_at = func.clock_timestamp() + wait
        if restart is not None:
            for earlier in links.done_again(step, restart, job.steps):
                earlier.apply(StepEvent.RESTART, Actor.WORKER)
                earlier.finished_at = None
        job.epoch += 1
        record_event(
            session, job.id, by=claim.owner, action=EventAction.RETRY, sentence=f"{step.name} is tried again: {error}"
        )


def fail(claim: Claim, error: str) -> None:
    """The step failed for good: the job is rolled back, or an operator is asked where that is impossible."""
    with _released(claim, StepEvent.FAIL, Outcome.FAILED, error) as (session, job, step):
        if claim.direction is Direction.ROLLBACK or job.committed_at is not None:
            again = f"once that is mended, `drover job retry {job.id}`"
            ask_operator(
                session, job, f"{step.name} on {step.host} failed: {error}; {again}", actor=Actor.WORKER, by=claim.owner
            )
        else:
            begin_rollback(session, job, f"{step.name} failed: {error}", actor=Actor.WORKER, by=claim.owner)


def give_up(claim: Claim, why: str) -> None:
    """The step was stopped on request: the job is rolled back."""
    with _released(claim, StepEvent.FAIL, Outcome.CANCELLED, why) as (session, job, _):
        begin_rollback(session, job, why, actor=Actor.WORKER, by=claim.owner)


def go_forward(claim: Claim, why: str) -> None:
    """Rolling back came too late: the destination owns the guest, so the job goes forward after all."""
    with _released(claim, StepEvent.GO_FORWARD, Outcome.COMMITTED, why) as (session, job, _):
        for other in job.steps:
            if STEP.allows(other.state, StepEvent.GO_FORWARD):
                other.apply(StepEvent.GO_FORWARD, Actor.WORKER)
        job.committed_at = job.committed_at or now(session)
        job.cancel_requested, job.epoch = False, job.epoch + 1
        job.apply(session, JobEvent.GO_FORWARD, why, actor=Actor.WORKER, by=claim.owner)


def go_back(claim: Claim, why: str) -> None:
    """Going forward is impossible and the destination never ran the guest: the source goes on with it."""
    with _released(claim, StepEvent.FAIL, Outcome.FAILED, why) as (session, job, _):
        job.committed_at, job.kept_by_source = None, True
        begin_rollback(session, job, why, actor=Actor.WORKER, by=claim.owner)


def stop_for_operator(claim: Claim, error: str) -> None:
    """It is unknown who owns the guest: leave everything as it is and ask an operator."""
    with _released(claim, StepEvent.FAIL, Outcome.FAILED, error) as (session, job, _):
        ask_operator(session, job, error, actor=Actor.WORKER, by=claim.owner)


def hand_back(claim: Claim) -> None:
    """The worker stops: release the claim, so that another one can take the step over at once."""
    with _released(claim, StepEvent.HAND_BACK, Outcome.HANDED_BACK) as (_, _job, step):
        step.attempts -= 1


def ask_operator(session: Session, job: Job, error: str, *, actor: Actor, by: str) -> None:
    """Stop the job until a person has decided."""
    job.error = error
    job.epoch += 1
    job.apply(session, JobEvent.ASK, error, actor=actor, by=by)


def begin_rollback(session: Session, job: Job, why: str, *, actor: Actor, by: str) -> None:
    """Start the job's rollback; a job of which no step was begun is rolled back at once.

    The caller holds its row's lock and no step of it is claimed.
    """
    job.error = why
    job.epoch += 1
    job.apply(session, JobEvent.ROLL_BACK, why, actor=actor, by=by)
    if job.state.finished:
        return
    for step in job.steps:
        if step.started_at:  # attempts fall back to 0 when a step is handed back
            step.apply(StepEvent.ROLL_BACK, actor)
    end_if_nothing_is_left(session, job, actor=actor, by=by)


def end_if_nothing_is_left(session: Session, job: Job, *, actor: Actor, by: str) -> None:
    """End a job under way that has no step left to be taken: no step's end would end it."""
    if job.direction is not None and not job.remaining:
        _end(session, job, actor=actor, by=by)


def _end(session: Session, job: Job, *, actor: Actor, by: str) -> None:
    """The job has come to its end in its present direction."""
    if job.direction is Direction.DO:
        job.error, why = None, f"{job.guest} lives on {job.destination}"
    else:
        why = f"{job.guest} stays on {job.source}: {job.error}"
    job.apply(session, JobEvent.FINISH, why, actor=actor, by=by)


@contextmanager
def _released(
    claim: Claim, event: StepEvent, outcome: Outcome, error: str | None = None
) -> Iterator[tuple[Session, Job, Step]]:
    """A transaction that ends the claim and decides what becomes of the job. Errors as for `fenced`."""
    with transaction() as session:
        _release(session, claim, event, outcome, error)
        job = session.get_one(Job, claim.job_id)
        yield session, job, next(step for step in job.steps if step.seq == claim.seq)


def _release(
    session: Session,
    claim: Claim,
    event: StepEvent,
    outcome: Outcome,
    error: str | None = None,
    statement: ReturningUpdate[int, int | None] = statements.RELEASE,
) -> Row[int, int | None]:
    """End the claim; returns its token and the number of the next step, if the statement notes that.

    Raises:
        LeaseLost: it was lost; nothing is written.
    """
    way = WAYS[claim.direction]
    after = STEP.apply(way.claimed, event, Actor.WORKER)
    what = {"state_after": after, "over": after is not way.due, "how": outcome, "why": error}
    return _still_held(claim, session.execute(statement, _held(claim) | what).one_or_none())


def expire(
    session: Session, where: ColumnElement[bool], why: str, *, actor: Actor, by: str, wait: bool = True
) -> list[int]:
    """Take claims away and let their steps be done again; returns the ids of the jobs.

    The epoch is raised, so that every message already sent for these jobs is dead. Without `wait` jobs that
    somebody has locked just now are left out.
    """
    found = session.execute(select(Step.job_id, Step.seq).where(Step.state.in_(CLAIMED), where)).all()
    expired = []
    for job_id, seq in sorted(found):
        job = lock(session, job_id, wait=wait)
        step = session.scalar(
            select(Step)
            .where(Step.job_id == job_id, Step.seq == seq, Step.state.in_(CLAIMED), where)
            .execution_options(populate_existing=True)
        )
        if job is None or step is None:
            continue
        _take_away(session, job, step, why, actor, by)
        expired.append(job_id)
    return expired


def _take_away(session: Session, job: Job, step: Step, why: str, actor: Actor, by: str) -> None:
    attempt = session.get_one(Attempt, (job.id, step.token))
    attempt.ended_at, attempt.outcome = func.clock_timestamp(), Outcome.EXPIRED
    step.apply(StepEvent.EXPIRE, actor)
    step.owner, step.lease_until, step.error = None, None, None
    job.epoch += 1
    record_event(session, job.id, by=by, action=EventAction.EXPIRED, sentence=f"{step.name} is taken over: {why}")


def overdue() -> ColumnElement[bool]:
    """Claims whose lease has run out."""
    return Step.lease_until <= func.clock_timestamp()


def of_earlier_incarnation(host: str, incarnation: str) -> ColumnElement[bool]:
    """Claims that a former worker of this host still holds; `flock` proves that it is gone."""
    return (Step.host == host) & (Step.owner != incarnation)


def why_not(job_id: int, seq: int, epoch: int, host: str) -> str:
    """Why `claim` was refused, for a log line: as it looks by now."""
    with transaction() as session:
        job = session.get(Job, job_id)
        step = session.get(Step, (job_id, seq))
        if job is None or step is None:
            return f"there is no step {seq} of job {job_id}"
        if step.host != host:
            return f"step {seq} is for {step.host}"
        if job.epoch != epoch:
            return f"it is from epoch {epoch}, the job is in epoch {job.epoch}"
        if any(other.state in CLAIMED for other in job.steps):
            return "another claim holds the job"
        return f"the job is {job.state}, the step is {step.state}"
