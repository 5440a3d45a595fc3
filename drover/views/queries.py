"""Queries for the display of jobs: one query each, without the columns that hold secrets."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, func, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session, defer, joinedload, selectinload

from drover.errors import NotThere, PreconditionFailed
from drover.views import remaining
from models import kept_images, refusal, sample
from models.database import transaction
from models.event_action import EventAction
from models.guest import Guest
from models.job import Attempt, Event, Job, JobState, unfinished
from models.sample import Sample
from models.webhook import Delivery
from workflows import not_there, outages, wait_reasons
from workflows.selectors import Selector

# What is never loaded cannot be printed: the NBD server's nonce and the switchover's key let their holder write into a
# guest's disks or take part in its switchover. The plan is left out because it is large.
PUBLIC = tuple(defer(column, raiseload=True) for column in (Job.plan, Job.nbd_server, Job.switchover))


@dataclass(frozen=True)
class Snapshot:
    """A job with its steps and disks, and the database's time when it was read. Its `wait_reason` is complete."""

    job: Job
    at: datetime

    @property
    def ended(self) -> bool:
        """No step of the job will run any more by itself."""
        return self.job.state.settled

    @property
    def total_s(self) -> float | None:
        """From its start until its end, or until now."""
        return elapsed_s(self.job.started_at, self.job.finished_at or self.at)

    @property
    def eta_s(self) -> float | None:
        """Seconds that it still takes once it goes on, see `remaining.left_s`."""
        return remaining.left_s(self.job, self.at)

    @property
    def expected_s(self) -> float | None:
        """All of it, as expected now."""
        left_s = self.eta_s
        return None if left_s is None else left_s + (self.total_s or 0.0)


def elapsed_s(begun: datetime | None, ended: datetime | None) -> float | None:
    """Seconds between two times, if both are known."""
    return None if begun is None or ended is None else max((ended - begun).total_seconds(), 0.0)


def snapshot(job_id: int) -> Snapshot:
    """The job as it is now.

    Raises:
        PreconditionFailed: there is none.
    """
    query = with_conditions().options(joinedload(Job.steps), joinedload(Job.disks)).where(Job.id == job_id)
    with transaction() as session:
        row = session.execute(query).unique().one_or_none()
    if row is None:
        raise not_there.job(job_id)
    return _shot(row)


def with_reasons(session: Session, numbers: Collection[int]) -> dict[int, Job]:
    """{its number: job}, each with its steps and disks and all of why it waits."""
    query = with_conditions().options(selectinload(Job.steps), selectinload(Job.disks)).where(Job.id.in_(numbers))
    return {job.id: job for job in map(completed, session.execute(query))}


def wait_reasons_of(session: Session, numbers: Collection[int]) -> dict[int, str | None]:
    """{job: why it waits}, all of it."""
    return {number: job.wait_reason for number, job in with_reasons(session, numbers).items()}


def may_go_home(job_id: int) -> bool:
    """The guest of this job was not well after it, still is where it went, and its old images are kept."""
    with transaction() as session:
        return bool(session.scalar(select(Job.id).where(Job.id == job_id, kept_images.last_way_back())))


def unwell() -> Select[Job]:
    """Moves after which the guest was not well: it still is where it went, and its old images are kept."""
    return select(Job).options(*PUBLIC).where(Job.state == JobState.DONE, kept_images.last_way_back())


def with_conditions() -> Select[Job, datetime, float, float, bool]:
    """Jobs, each with the database's time and what else `completed` needs.

    Of the time it is now(), not clock_timestamp(), which would differ from row to row of a join.
    """
    return select(Job, func.now(), *wait_reasons.silences(), outages.attended()).options(*PUBLIC)


def completed(row: Any) -> Job:
    """The job of such a row, with all of why it waits, see `workflows.wait_reasons`."""
    job, at, source_s, destination_s, controlled = row
    wait_reasons.complete(job, at, source_s, destination_s, controlled=controlled)
    return cast("Job", job)


def _shot(row: Any) -> Snapshot:
    return Snapshot(job=completed(row), at=row[1])


def id_of(idempotency_key: str) -> int:
    """The number of the job that was submitted with this key.

    Raises:
        PreconditionFailed: there is none, or it was refused.
    """
    with transaction() as session:
        found = session.scalar(select(Job.id).where(Job.idempotency_key == idempotency_key))
        why = refusal.why(session, "job", idempotency_key)
    if found is None and why is not None:
        raise PreconditionFailed(f"the submission with the key {idempotency_key!r} was refused: {why}")
    if found is None:
        raise NotThere(f"no job was submitted with the key {idempotency_key!r}")
    return found


def listed(
    submitted_at: InstrumentedAttribute[datetime],
    goes_on: ColumnElement[bool],
    *,
    everything: bool,
    since: timedelta | None,
) -> ColumnElement[bool]:
    """Which are listed: all that were submitted so long ago at the most, else everything, or what goes on."""
    if since is not None:
        return submitted_at > func.clock_timestamp() - since
    return true() if everything else goes_on


def newest(
    *,
    everything: bool,
    guest: str | None,
    limit: int,
    selector: Selector | None = None,
    since: timedelta | None = None,
) -> list[Snapshot]:
    """Jobs, newest first; without `everything` only those that are not done or rolled back.

    A selector is about their guests. `since`: all that were submitted so long ago at the most.
    """
    query = (
        with_conditions().options(selectinload(Job.steps), selectinload(Job.disks)).order_by(Job.id.desc()).limit(limit)
    )
    query = query.where(listed(Job.created_at, unfinished(), everything=everything, since=since))
    if guest is not None:
        query = query.where(Job.guest == guest)
    if selector is not None:
        query = query.where(Job.guest.in_(select(Guest.name).where(selector.condition(Guest.labels))))
    with transaction() as session:
        return [_shot(row) for row in session.execute(query)]


def events(job_id: int, action: EventAction | None = None) -> list[Event]:
    """The job's events, or those of one kind."""
    query = select(Event).where(Event.job_id == job_id).order_by(Event.id)
    if action is not None:
        query = query.where(Event.action == action)
    with transaction() as session:
        return list(session.scalars(query))


def samples(job_id: int) -> list[Sample]:
    """How fast its disks and its RAM were copied and changed, in the order of time."""
    query = select(Sample).where(Sample.job_id == job_id).order_by(Sample.at).limit(2 * sample.MOST)
    with transaction() as session:
        return list(session.scalars(query))


def attempts(numbers: Collection[int]) -> dict[int, list[Attempt]]:
    """{job: every attempt at its steps}, in their order."""
    query = select(Attempt).where(Attempt.job_id.in_(numbers)).order_by(Attempt.token)
    found: dict[int, list[Attempt]] = {number: [] for number in numbers}
    with transaction() as session:
        for attempt in session.scalars(query):
            found[attempt.job_id].append(attempt)
    return found


def delivery(*, job_id: int | None = None, drain_id: int | None = None, roll_id: int | None = None) -> Delivery | None:
    """The newest webhook about a job, a drain or a roll."""
    named = {Delivery.job_id: job_id, Delivery.drain_id: drain_id, Delivery.roll_id: roll_id}
    about = next(column == number for column, number in named.items() if number is not None)
    with transaction() as session:
        return session.scalar(select(Delivery).where(about).order_by(Delivery.id.desc()).limit(1))
