"""What has become of the guests of a drain: read from their jobs, and from where they live."""

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from drover.settings import Settings
from models.drain import Drain, DrainGuest, DrainKind, GuestState
from models.guest import Guest
from models.job import Job, JobState
from models.transitions import Actor
from workflows import capacity
from workflows.drain import notices
from workflows.migration import claims


def follow(session: Session, drain: Drain, ours: Settings) -> None:
    """Update every guest that has not moved yet, from its job and its present host.

    A job belongs to a drain by its `drain_id`, so it is found even if the submitting process died right after.
    """
    rooms = capacity.rooms(session, ours)
    for row in drain.guests:
        newest = select(Job).where(Job.drain_id == row.drain_id, Job.guest == row.guest).order_by(Job.id.desc())
        job = session.scalars(newest.limit(1)).one_or_none()
        if row.state is GuestState.WAITING and job is not None and job.id != row.job_id:
            row.job_id, row.destination = job.id, job.destination
            row.move(GuestState.MOVING)
            notices.tell(session, job)
        if row.state is GuestState.MOVING and job is not None:
            _follow_job(session, row, job, rooms[job.destination].closed_because)
        elif row.state is not GuestState.MOVED and _is_away(session, drain, row):
            row.move(GuestState.MOVED, "somebody else moved it, or it was forgotten")


def _is_away(session: Session, drain: Drain, row: DrainGuest) -> bool:
    guest = session.get(Guest, row.guest)
    return guest is None or (guest.host == drain.host) is (drain.kind is DrainKind.RETURN)


def _follow_job(session: Session, row: DrainGuest, job: Job, closed: str | None) -> None:
    if job.state is JobState.DONE:
        row.move(GuestState.MOVED)
    elif job.state is JobState.ROLLED_BACK and job.cancel_requested:
        row.move(GuestState.SKIPPED, f"its job {job.id} was cancelled")
    elif job.state is JobState.ROLLED_BACK:
        row.refused_by = {**row.refused_by, job.destination: f"job {job.id} to {job.destination} failed: {job.error}"}
        row.move(GuestState.WAITING, f"another destination is looked for: job {job.id} failed: {job.error}")
    elif job.state is JobState.NEEDS_OPERATOR:
        row.reason = f"job {job.id} needs an operator: {job.error} (`drover job explain {job.id}`)"
    elif job.state is JobState.QUEUED and closed is not None:
        _withdraw(session, job, closed)
    else:
        row.reason = job.wait_reason


def _withdraw(session: Session, job: Job, closed: str) -> None:
    """A job that has not begun does not wait for a host that was closed, or fell silent, meanwhile."""
    locked = claims.lock(session, job.id, wait=False)
    if locked is not None and locked.state is JobState.QUEUED:
        claims.begin_rollback(session, locked, closed, actor=Actor.CONTROLLER, by="controller")


def moves_under_way(session: Session, drain: Drain) -> bool:
    """Some move of the drain goes on by itself, or has just ended and was not looked at yet.

    One that waits for an operator does not count.
    """
    going = Job.state.in_([JobState.QUEUED, JobState.RUNNING, JobState.ROLLING_BACK])
    unseen = exists().where(
        DrainGuest.drain_id == drain.id,
        DrainGuest.job_id == Job.id,
        DrainGuest.state == GuestState.MOVING,
        Job.state != JobState.NEEDS_OPERATOR,
    )
    query = select(Job.id).where(Job.drain_id == drain.id, or_(going, unseen)).limit(1)
    return session.scalar(query) is not None
