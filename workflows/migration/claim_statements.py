"""The statements by which a claim is won and ended, put together once.

Each changes all that belongs together, or nothing. To put one together takes SQLAlchemy longer than it takes Postgres
to carry it out, and each link of each job needs them.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    BindParameter,
    Boolean,
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
    case,
    column,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Load, aliased, defer, joinedload
from sqlalchemy.sql.dml import Insert, ReturningUpdate
from sqlalchemy.types import TypeEngine

from models.documents import MigrationOptions
from models.job import OF_STEPS, Attempt, Disk, Job, Outcome, Side, Step
from models.sample import AT_FIRST, EVERY, MOST, Sample
from models.transitions import CLAIMED, WAYS, Direction

JOB: BindParameter[int] = bindparam("of_job", type_=BigInteger)
SEQ: BindParameter[int] = bindparam("of_seq", type_=Integer)
EPOCH: BindParameter[int] = bindparam("of_epoch", type_=Integer)
OF_RAM: BindParameter[bool] = bindparam("is_ram", type_=Boolean)
SENT: BindParameter[int] = bindparam("sent", type_=BigInteger)
CHANGED: BindParameter[int] = bindparam("changed", type_=BigInteger)
TOKEN: BindParameter[int] = bindparam("number", type_=BigInteger)
OWNER: BindParameter[str] = bindparam("by", type_=String)
WHY: BindParameter[str] = bindparam("why", type_=Text)
AT: BindParameter[datetime] = bindparam("at", type_=DateTime(timezone=True))
NOW = func.clock_timestamp()
LEASE_END = func.clock_timestamp() + bindparam("ttl", type_=Interval)
LASTED = timedelta(minutes=5)
"""An attempt of that length made progress: those before it no longer count."""
STILL_HELD = (Step.seq == SEQ, Step.token == TOKEN, Step.state.in_(CLAIMED))
UNCHANGED = (Job.id == JOB, Job.token == TOKEN, Job.epoch == EPOCH)
"""Of a job whose newest claim still holds: one that is taken away raises the epoch, the next one the token. Who had to
wait for the job's row sees so in its newest version, though not what became of the step meanwhile."""


def _take(direction: Direction) -> Select[Job, Side, int, int, datetime]:
    """Lock the job, take the step if it is what the job needs next, and number the claim: all of it or nothing.

    Returns the job with its disks, of the step its side, attempts and the claim's token, and the time. If this had to
    wait for the job's row it has seen the other steps as they were before that, and may refuse what was due.
    """
    way = WAYS[direction]
    due = select(Job.__table__).where(Job.id == JOB, Job.epoch == EPOCH, Job.state == way.job)
    job = due.with_for_update().cte("locked")
    won = (
        update(Step)
        .where(
            Step.job_id == job.c.id,
            Step.seq == SEQ,
            Step.name == bindparam("named"),
            Step.host == bindparam("on_host"),
            Step.state == way.due,
            Step.next_at <= func.statement_timestamp(),
            ~_others_first(direction),
        )
        .values(
            state=way.claimed,
            token=job.c.token + 1,
            owner=OWNER,
            attempts=case((_made_progress(), 1), else_=Step.attempts + 1),
            lease_until=LEASE_END,
            started_at=_begun(direction),
            finished_at=None,
        )
        .returning(Step.job_id, Step.seq, Step.side, Step.attempts, Step.token, NOW.label("at"))
        .cte("won")
    )
    numbered = update(Job).where(Job.id == won.c.job_id).values(token=won.c.token, progress_at=NOW).cte("numbered")
    audited = insert(Attempt).from_select(
        ["job_id", "seq", "token", "direction", "owner"],
        select(won.c.job_id, won.c.seq, won.c.token, literal(direction.value), OWNER),
    )
    locked = aliased(Job, job)
    return (
        select(locked, won.c.side, won.c.attempts, won.c.token, won.c.at)
        .join(won, won.c.job_id == locked.id)
        .options(joinedload(locked.disks), Load(locked).undefer_group(OF_STEPS))
        .add_cte(numbered, audited.cte("audited"))
    )


def _begun(direction: Direction) -> ColumnElement[datetime]:
    """When a step was begun. One that is done again after its worker ended goes on with what is there, so its first
    beginning counts; rolling back is another matter.
    """
    return func.coalesce(Step.started_at, NOW) if direction is Direction.DO else NOW


def _made_progress() -> ColumnElement[bool]:
    """The last attempt lasted for minutes, and the next one goes on with what it did: no reason to give the step up.

    Its claim may have been held for days, as that of a move that is held in sync. One after which a copy or the RAM has
    to be sent anew made no progress, however long it took: RAM that does not converge must not be sent for ever.
    """
    last = aliased(Attempt)
    lasted = (last.ended_at - last.started_at >= LASTED) & (last.outcome != Outcome.BEGUN_ANEW)
    return exists().where(last.job_id == Step.job_id, last.token == Step.token, lasted)


def _others_first(direction: Direction) -> ColumnElement[bool]:
    """Another step of the job is claimed, or its turn is before this one's; the same as `Job.next_step` says."""
    other, way = aliased(Step), WAYS[direction]
    before = other.seq > Step.seq if way.backwards else other.seq < Step.seq
    first = and_(before, other.state.in_(way.left))
    return exists().where(other.job_id == Step.job_id, other.seq != Step.seq, or_(other.state.in_(CLAIMED), first))


def _release(going_on: Direction | None = None) -> ReturningUpdate[int, int | None]:
    """End a claim that still holds, and its attempt; `going_on` notes as well that the next step's message is sent.

    What is asked of the step is asked again of its newest version when this had to wait for the job's row. The others
    are as they were, because they do not change while one is claimed.
    """
    job = select(Job.id).where(Job.id == JOB).with_for_update().cte("locked")
    step = (
        update(Step)
        .where(Step.job_id == job.c.id, *STILL_HELD)
        .values(
            state=bindparam("state_after", type_=Step.state.type),
            finished_at=case((bindparam("over", type_=Boolean), NOW)),
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
        .values(ended_at=NOW, outcome=bindparam("how", type_=String), error=WHY)
        .returning(Attempt.token, _next(step, going_on) if going_on else null())
        .execution_options(synchronize_session=False)
    )


def _next(released: CTE, direction: Direction) -> ScalarSelect[int]:
    """Its number; null after the last one."""
    way = WAYS[direction]
    edge = func.max(Step.seq) if way.backwards else func.min(Step.seq)
    following = select(edge).where(Step.job_id == JOB, Step.state == way.due).scalar_subquery()
    noted = (
        update(Step)
        .where(Step.job_id == released.c.job_id, Step.seq == following)
        .values(enqueued_at=func.clock_timestamp())
        .returning(Step.seq)
        .cte("noted")
    )
    return select(noted.c.seq).scalar_subquery()


def note(columns: Mapping[str, Any]) -> ReturningUpdate[int]:
    """Write columns of the job's row while the claim holds."""
    held = exists().where(Step.job_id == Job.id, *STILL_HELD)
    written = update(Job).where(*UNCHANGED, held).values(columns).returning(Job.id)
    return written.execution_options(synchronize_session=False)


def _progress() -> Select[bool, bool, MigrationOptions, str | None, bool]:
    """Prolong a lease that has not run out, and write down how far each disk is."""
    leased = exists().where(Step.job_id == Job.id, *STILL_HELD, Step.lease_until > func.clock_timestamp())
    job = (
        update(Job)
        .where(*UNCHANGED, leased)
        .values(progress_at=func.coalesce(AT, Job.progress_at), pace=bindparam("pace", type_=Job.pace.type))
        .returning(Job.id, Job.hold, Job.seed, Job.options, Job.wait_reason, Job.cancel_requested)
        .cte("noted")
    )
    lease = update(Step).where(Step.job_id == job.c.id, Step.seq == SEQ).values(lease_until=LEASE_END)
    kinds: dict[str, TypeEngine[Any]] = {
        "index": Integer(),
        "copied": BigInteger(),
        "total": BigInteger(),
        "first": BigInteger(),
        "ready": DateTime(timezone=True),
    }
    arrays = [bindparam(f"each_{name}", type_=ARRAY[Any](kind)) for name, kind in kinds.items()]
    columns = [column(name, kind) for name, kind in kinds.items()]
    seen = func.unnest(*arrays).table_valued(*columns).render_derived("seen")
    disks = (
        update(Disk)
        .where(Disk.job_id == job.c.id, Disk.index == seen.c.index)
        .values(bytes_copied=seen.c.copied, bytes_total=seen.c.total, bytes_first=seen.c.first, ready_at=seen.c.ready)
    )
    told = select(job.c.hold, job.c.seed, job.c.options, job.c.wait_reason, job.c.cancel_requested)
    return told.add_cte(lease.cte("renewed"), disks.cte("told"))


def _sample() -> Insert:
    """Add a sample if one is due; where there are as many as may be, one of them becomes it."""
    mine = (Sample.job_id == JOB, Sample.of_ram == OF_RAM)
    seen = select(func.min(Sample.at).label("first"), func.max(Sample.at).label("last"), func.count().label("kept"))
    there = seen.where(*mine).cte("there")
    passed = NOW - there.c.first
    pause = func.greatest(func.least(EVERY, passed / AT_FIRST), passed / MOST)
    is_due = or_(there.c.last.is_(None), NOW - there.c.last >= pause)
    due = select(JOB.label("job_id"), NOW.label("at"), there.c.kept).where(is_due).cte("due")
    gap = (Sample.at - func.lag(Sample.at).over(order_by=Sample.at)).label("gap")
    gaps = select(Sample.at, gap).where(*mine).subquery("gaps")
    nearest = select(gaps.c.at).where(gaps.c.gap.is_not(None)).order_by(gaps.c.gap).limit(1).scalar_subquery()
    replaced = (
        update(Sample)
        .where(*mine, Sample.job_id == due.c.job_id, due.c.kept >= MOST, Sample.at == nearest)
        .values(at=due.c.at, sent_per_s=SENT, changed_per_s=CHANGED)
    )
    added = select(due.c.job_id, OF_RAM, due.c.at, SENT, CHANGED).where(due.c.kept < MOST)
    columns = ["job_id", "of_ram", "at", "sent_per_s", "changed_per_s"]
    return (
        insert(Sample)
        .from_select(columns, added)
        .add_cte(replaced.cte("replaced"))
        .execution_options(dml_strategy="raw")  # else the parameters are taken for rows
    )


HELD = (
    select(Job, Step)
    .join(Job.steps)
    .where(Job.id == JOB, *STILL_HELD)
    .options(defer(Job.plan))  # a few KiB that never change
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
SAMPLE = _sample()
TAKE = {direction: _take(direction) for direction in Direction}
PROGRESS = _progress()
RELEASE = _release()
FINISH = {direction: _release(direction) for direction in Direction}
