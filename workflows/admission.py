"""Admission: which of the jobs that wait may go on now. The others are told why not.

One round looks at all of them in order of priority and age, under a lock, so that what one job takes the next one
does not find.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.guest import Guest
from models.job import Job, JobState
from models.settings import Settings
from workflows import capacity
from workflows.capacity import Room, Size, Slots

ADMISSION_LOCK = 0x61646D6974  # "admit"
ME = "controller"


def admit(session: Session, ours: Settings) -> None:
    """Let every job begin that may."""
    session.execute(select(func.pg_advisory_xact_lock(ADMISSION_LOCK)))
    jobs = _waiting(session)
    if not jobs:
        return
    rooms, slots = capacity.rooms(session, ours), capacity.slots(session, ours)
    for job in jobs:
        guest = session.get(Guest, job.guest)
        size = Size.of(guest) if guest is not None else Size(cpus=0, memory_bytes=0, disk_bytes=0)
        why = _obstacle(job, size, rooms[job.destination], slots)
        if why is not None:
            job.waiting = why
            continue
        rooms[job.destination].take(size)
        slots.take(job.source, job.destination)
        job.move(session, JobState.RUNNING, "the job begins", by=ME)


def _waiting(session: Session) -> list[Job]:
    query = select(Job).where(Job.state == JobState.QUEUED).order_by(Job.priority.desc(), Job.id)
    return list(session.scalars(query.with_for_update(skip_locked=True)))


def _obstacle(job: Job, size: Size, room: Room, slots: Slots) -> str | None:
    """Why a job may not begin now. A silent host is none: whoever waits for one is told so later."""
    closed = room.closed and f"{room.host} takes no guest: {room.closed}"
    return closed or room.lacks(size) or slots.lacking(job.source, job.destination)
