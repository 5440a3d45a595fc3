"""The statements by which a claim is won and ended, put together once.

Each changes all that belongs together, or nothing. To put one together takes SQLAlchemy longer than it takes Postgres
to carry it out, and each link of each job needs them.
"""

from datetime import datetime

from sqlalchemy import (
    CTE,
    BigInteger,
    BindParameter,
    ColumnElement,
    DateTime,
    Integer,
    Interval,
    ScalarSelect,
    Select,
    String,
    Text,
    and_,
    bindparam,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased, defer, joinedload
from sqlalchemy.sql.dml import ReturningUpdate

from models.job import CLAIMED, Attempt, Direction, Job, JobState, Side, Step, StepState

RUNNABLE = {  # direction: (state of the job, state of the step before, while claimed, and after)
    Direction.DO: (JobState.RUNNING, StepState.PENDING, StepState.RUNNING, StepState.DONE),
    Direction.UNDO: (JobState.UNDOING, StepState.TO_UNDO, StepState.UNDOING, StepState.UNDONE),
}

JOB: BindParameter[int] = bindparam("of_job", type_=BigInteger)
SEQ: BindParameter[int] = bindparam("of_seq", type_=Integer)
TOKEN: BindParameter[int] = bindparam("number", type_=BigInteger)
OWNER: BindParameter[str] = bindparam("by", type_=String)
WHY: BindParameter[str] = bindparam("why", type_=Text)
AT: BindParameter[datetime] = bindparam("at", type_=DateTime(timezone=True))
LEASE_END = func.clock_timestamp() + bindparam("ttl", type_=Interval)
STILL_HELD = (Step.seq == SEQ, Step.token == TOKEN, Step.state.in_(CLAIMED))


def _take(direction: Direction) -> Select[str, Side, int]:
    """Take the step if it is what the job needs next, and number the claim: in one statement, all or nothing.

    Only after the job's row was locked by a statement before it does it see the other steps as they are now.
    """
    _, before, claimed, _ = RUNNABLE[direction]
    won = (
        update(Step)
        .where(
            Step.job_id == JOB,
            Step.seq == SEQ,
            Step.host == bindparam("on_host"),
            Step.state == before,
            Step.next_at <= func.statement_timestamp(),
            ~_others_first(direction),
        )
        .values(
            state=claimed,
            token=TOKEN,
            owner=OWNER,
            attempts=Step.attempts + 1,
            lease_until=LEASE_END,
            started_at=AT,
            finished_at=None,
        )
        .returning(Step.job_id, Step.seq, Step.name, Step.side, Step.attempts)
        .cte("won")
    )
    numbered = update(Job).where(Job.id == won.c.job_id).values(token=TOKEN, progress_at=AT).cte("numbered")
    audited = insert(Attempt).from_select(
        ["job_id", "seq", "token", "direction", "owner"],
        select(won.c.job_id, won.c.seq, TOKEN, literal(direction.value), OWNER),
    )
    return select(won.c.name, won.c.side, won.c.attempts).add_cte(numbered, audited.cte("audited"))


def _others_first(direction: Direction) -> ColumnElement[bool]:
    """Another step of the job is claimed, or its turn is before this one's; the same as `runnable` says."""
    other = aliased(Step)
    earlier = and_(other.seq < Step.seq, other.state != StepState.DONE)
    later = and_(other.seq > Step.seq, other.state == StepState.TO_UNDO)
    due = earlier if direction is Direction.DO else later
    return exists().where(other.job_id == Step.job_id, other.seq != Step.seq, or_(other.state.in_(CLAIMED), due))


def _release(going_on: Direction | None = None) -> ReturningUpdate[int, int | None]:
    """End a claim that still holds, and its attempt; `going_on` notes as well that the next step's message is sent.

    What is asked of the step is asked again of its newest version when this had to wait for the job's row. The others
    are as they were, because nobody changes them while one is claimed.
    """
    job = select(Job.id).where(Job.id == JOB).with_for_update().cte("locked")
    step = (
        update(Step)
        .where(Step.job_id == job.c.id, *STILL_HELD)
        .values(
            state=bindparam("state_after", type_=Step.state.type),
            finished_at=bindparam("finished", type_=DateTime(timezone=True)),
            error=WHY,
            owner=None,
            lease_until=None,
            enqueued_at=None,
        )
        .returning(Step.job_id, Step.token)
        .cte("released")
    )
    return (
        update(Attempt)
        .where(Attempt.job_id == step.c.job_id, Attempt.token == step.c.token)
        .values(ended_at=AT, outcome=bindparam("how", type_=String), error=WHY)
        .returning(Attempt.token, _next(step, going_on) if going_on else null())
        .execution_options(synchronize_session=False)
    )


def _next(released: CTE, direction: Direction) -> ScalarSelect[int]:
    """Its number; null after the last one."""
    edge = func.min(Step.seq) if direction is Direction.DO else func.max(Step.seq)
    following = select(edge).where(Step.job_id == JOB, Step.state == RUNNABLE[direction][1]).scalar_subquery()
    noted = (
        update(Step)
        .where(Step.job_id == released.c.job_id, Step.seq == following)
        .values(enqueued_at=func.clock_timestamp())
        .returning(Step.seq)
        .cte("noted")
    )
    return select(noted.c.seq).scalar_subquery()


LOCKED_JOB = select(Job).where(Job.id == JOB).options(joinedload(Job.disks)).with_for_update(of=Job)
"""A job with its disks, its row locked until the transaction ends."""
HELD = (
    select(Job, Step)
    .join(Job.steps)
    .where(Job.id == JOB, *STILL_HELD)
    .options(defer(Job.plan))  # a few KiB that nobody changes
    .with_for_update(of=[Job, Step])
)
"""Job and step of a claim that still holds, both locked."""
RENEW = (
    update(Step)
    .where(Step.job_id == JOB, *STILL_HELD, Step.lease_until > func.clock_timestamp(), Job.id == Step.job_id)
    .values(lease_until=LEASE_END)
    .returning(Job.cancel_requested)
    .execution_options(synchronize_session=False)
)
TAKE = {direction: _take(direction) for direction in Direction}
RELEASE = _release()
FINISH = {direction: _release(direction) for direction in Direction}
