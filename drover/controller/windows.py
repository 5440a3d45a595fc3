"""Jobs under way whose window has closed: their disks are kept in sync until the next one, or they are rolled back.

No guest changes hosts meanwhile, whether a controller acts or not: the source looks at the window before it sends the
RAM, and the switchover process right before the point of no return.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from drover.settings import Settings
from models.base import now
from models.database import transaction
from models.event_action import EventAction
from models.job import Job, JobState, record_event
from workflows import isolation, windows
from workflows.migration import claims, jobs

ME = "controller"


def open_ended() -> ColumnElement[bool]:
    """Jobs that may switch over as far as the controller knows, though only within their window."""
    uncommitted = and_(Job.committed_at.is_(None), Job.cutover_begun_at.is_(None))
    return and_(Job.state == JobState.RUNNING, Job.window.is_not(None), ~Job.seed, ~Job.cancel_requested, uncommitted)


def tick(ours: Settings) -> None:
    """Look at each of them."""
    with transaction() as session:
        ids = list(session.scalars(select(Job.id).where(open_ended())))
    isolation.each("close its window", Job, sorted(ids), _close)


def _close(job_id: int) -> None:
    with transaction() as session:
        job = claims.lock(session, job_id, wait=False)
        if job is not None:
            close(session, job, now(session))


def close(session: Session, job: Job, at: datetime) -> None:
    """Keep a job back if its window is closed. Hold its row's lock.

    An attempt at the switchover that is under way is left alone: it ends by itself when the window closes.
    """
    if job.window is None or job.seed or job.cutover_begun_at is not None or job.committed_at is not None:
        return
    if job.state is not JobState.RUNNING or not windows.is_closed(job.window, at):
        return
    why = windows.closed(job.window, at, job.options).of("job", job.id)
    record_event(session, job.id, by=ME, action=EventAction.WINDOW_CLOSED, sentence=why)
    if job.options.window_end == windows.ROLLBACK:
        jobs.request_end(session, job, by="the end of its window")
    else:
        job.seed, job.wait_reason = True, why
