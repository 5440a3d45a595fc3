"""Admission: which of the jobs that wait may go on now. The others get a `wait_reason`.

One round looks at all of them in order of priority and age, under a lock, so that no room or
slot is given to two jobs. Each job's row is written in a savepoint of its own: an error with one job stops no other.
A job waits twice if its disks are copied ahead: before it begins, and before its RAM follows.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from drover import words
from drover.settings import Settings
from models import decision_log, fleet
from models.database import away
from models.event_action import EventAction
from models.fleet import Limits
from models.guest import Guest
from models.job import Job, JobState, record_event
from models.transitions import Actor, JobEvent
from workflows import capacity, estimate, permissions, schedule
from workflows.capacity import Room, Size, Slots
from workflows.estimate import ANY, Speed, Way
from workflows.isolation import PAUSES
from workflows.migration import claims

ADMISSION_LOCK = 0x61646D6974  # "admit"
ME = "controller"
DECIDING = "admit"
"""What is tried with a job here, see `workflows.isolation`."""


def waits() -> ColumnElement[bool]:
    """Jobs that admission decides about."""
    return or_(
        Job.state == JobState.QUEUED,
        and_(Job.state == JobState.RUNNING, Job.seed, Job.cutover_begun_at.is_(None), capacity.parked()),
    )


def admit(session: Session, ours: Settings) -> dict[int, Exception]:
    """Let every job begin, and let the RAM of every job follow, that may.

    Returns the errors of jobs that could not be decided about; these were neither changed nor counted.
    """
    session.execute(select(func.pg_advisory_xact_lock(ADMISSION_LOCK)))
    found, troubled = _found(session)
    if not found:
        return troubled
    limits = fleet.limits(session)
    rooms, slots = capacity.rooms(session, ours), capacity.slots(session, limits)
    held = capacity.held_per_host(session) if any(row.Job.held for row in found) else {}
    speed = estimate.speed(session) if any(row.Job.window for row in found) else Speed()
    for job, guest, now in found:
        job_id = job.id
        try:
            if withdrawn := _withdrawn(session, job, guest):
                with session.begin_nested():
                    claims.begin_rollback(session, job, withdrawn, actor=Actor.CONTROLLER, by=ME)
                continue
            size = Size.of(guest) if guest is not None else Size(cpus=0, memory_bytes=0, disk_bytes=0)
            why = _too_early(job, guest, size, now, speed) or _obstacle(job, size, rooms[job.destination], slots)
            why = why or _too_many_held(job, held, limits)
            if why is not None and why == job.wait_reason:
                continue
            begins = job.state is JobState.QUEUED
            with session.begin_nested():
                _decide(session, job, why, now)
            PAUSES.succeeded(DECIDING, job_id)
        except Exception as error:
            if away(error):
                raise
            troubled[job_id] = error
            continue
        if why is not None:
            continue
        slots.reserve(job.source, job.destination)
        if begins:
            held[job.source] = held.get(job.source, 0) + job.held
            rooms[job.destination].reserve(size)
    return troubled


def _withdrawn(session: Session, job: Job, guest: Guest | None) -> str | None:
    """Why a job may not begin any more that was permitted when it was submitted."""
    if job.state is not JobState.QUEUED:
        return None
    return permissions.withdrawn_from_move(session, job, guest, job.source, job.destination)


def _decide(session: Session, job: Job, why: str | None, now: datetime) -> None:
    """Write down why a job waits, or let it go on."""
    if why is not None:
        job.wait_reason = why
        decision_log.add(session, f"waits: {why}", job=job.id, guest=job.guest, drain=job.drain_id)
    elif job.state is JobState.QUEUED:
        job.apply(session, JobEvent.BEGIN, "the job begins", actor=Actor.CONTROLLER, by=ME)
    else:
        job.seed, job.wait_reason, job.progress_at = False, None, now
        record_event(
            session, job.id, by=ME, action=EventAction.RELEASED, sentence="its time has come: the RAM follows the disks"
        )


def _found(session: Session) -> tuple[list[Any], dict[int, Exception]]:
    """Jobs that wait, as `_waiting` reads them, without those in a pause; and the errors of those it cannot read."""
    troubled: dict[int, Exception] = {}
    try:
        with session.begin_nested():
            found = list(session.execute(_waiting()).all())
    except Exception as error:
        if away(error):
            raise
        found = _found_one_by_one(session, troubled)
    due = set(PAUSES.due(DECIDING, [row.Job.id for row in found]))
    return [row for row in found if row.Job.id in due], {
        job_id: troubled[job_id] for job_id in PAUSES.due(DECIDING, troubled)
    }


def _found_one_by_one(session: Session, troubled: dict[int, Exception]) -> list[Any]:
    found: list[Any] = []
    for job_id in session.scalars(select(Job.id).where(waits()).order_by(Job.priority.desc(), Job.id)).all():
        try:
            with session.begin_nested():
                found += session.execute(_waiting().where(Job.id == job_id)).all()
        except Exception as error:
            if away(error):
                raise
            troubled[job_id] = error
    return found


def _waiting() -> Select[Job, Guest | None, datetime]:
    """Those jobs, each with its guest and the database's time."""
    return (
        select(Job, Guest, func.now())
        .outerjoin(Guest, Guest.name == Job.guest)
        .where(waits())
        .order_by(Job.priority.desc(), Job.id)
        .with_for_update(of=Job, skip_locked=True)
    )


def _too_early(job: Job, guest: Guest | None, size: Size, now: datetime, speed: Speed) -> str | None:
    """Disks may be copied ahead at any time; all else only at its time, and if it can end within its window."""
    if job.seed and job.state is JobState.QUEUED:
        return None
    way = Way.of(guest, job.destination, job.options) if guest is not None else ANY
    takes_s = speed.of(way).needs_s(size, seeded=job.seed)
    wait = schedule.obstacle(now, takes_s, not_before=job.not_before, window=job.window)
    return None if wait is None else wait.of("job", job.id)


def _obstacle(job: Job, size: Size, room: Room, slots: Slots) -> str | None:
    """Why a job may not begin now. A silent host does not count here: that reason is written later."""
    begins = job.state is JobState.QUEUED  # later it has its room already, and a cordon stops nothing that has begun
    no_room = begins and (room.closed_by_operator or room.lacks(size, job.options.thin_factor))
    return no_room or slots.lacking(job.source, job.destination)


def _too_many_held(job: Job, held: dict[str, int], limits: Limits) -> str | None:
    """A move that is held keeps a thread of its source's worker busy for as long as that lasts."""
    now = held.get(job.source, 0)
    if job.state is not JobState.QUEUED or not job.held or now < limits.max_held:
        return None
    already = f"{words.count(now, 'move is', 'moves are')} held in sync on {job.source} already"
    return f"{already}, {limits.max_held} may be at a time: {capacity.one_more('max-held', now)}"
