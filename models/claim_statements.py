"""The statements by which a claim is won and ended, put together once.

Each changes all that belongs together, or nothing. To put one together takes SQLAlchemy longer than it takes Postgres
to carry it out, and each link of each job needs three.
"""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    DateTime,
    Integer,
    Interval,
    Select,
    String,
    Text,
    and_,
    bindparam,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased
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
            lease_until=func.clock_timestamp() + bindparam("ttl", type_=Interval),
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


def _release() -> ReturningUpdate[int]:
    """End a claim that still holds, and its attempt.

    What is asked of the step is asked again of its newest version when this had to wait for the job's row.
    """
    job = select(Job.id).where(Job.id == JOB).with_for_update().cte("locked")
    step = (
        update(Step)
        .where(Step.job_id == job.c.id, Step.seq == SEQ, Step.token == TOKEN, Step.state.in_(CLAIMED))
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
        .returning(Attempt.token)
        .execution_options(synchronize_session=False)
    )


def _next(direction: Direction) -> ReturningUpdate[int]:
    """Note that the message of the next step is sent."""
    edge = func.min(Step.seq) if direction is Direction.DO else func.max(Step.seq)
    following = select(edge).where(Step.job_id == JOB, Step.state == RUNNABLE[direction][1]).scalar_subquery()
    return (
        update(Step)
        .where(Step.job_id == JOB, Step.seq == following)
        .values(enqueued_at=func.clock_timestamp())
        .returning(Step.seq)
        .execution_options(synchronize_session=False)
    )


TAKE = {direction: _take(direction) for direction in Direction}
RELEASE = _release()
NEXT = {direction: _next(direction) for direction in Direction}
