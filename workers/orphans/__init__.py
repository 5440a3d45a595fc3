"""Garbage on this host: what jobs left behind that have ended, found and removed again.

All names contain the number of the job: directories, marks of processes, names of block jobs and nodes.
So each find is decided by the state of its job alone, read right before something is removed; `done` and
`rolled_back` are states that no job leaves. When in doubt a thing is kept, with the reason: a QEMU is ended
only while we hold its only monitor, and that reports that it still waits for a guest.
"""

import logging
import time

from sqlalchemy import select

from drover.errors import DroverError
from drover.settings import Settings
from models.database import transaction
from models.host_rpc import CollectOrphans, LookForOrphans, Orphan, Orphans
from models.job import Job
from workers.orphans.discovery import finds
from workers.orphans.resources import Find, Kept, Retired

log = logging.getLogger(__name__)

BUDGET_S = 20.0
"""Nothing is begun later than that: the process that asked waits 30 s for the answer."""


async def look(question: LookForOrphans, settings: Settings) -> Orphans:
    """What no unfinished job owns here, and nothing removed."""
    found, notes = await finds(settings)
    shown = [await _shown(find, job, question.unknown_jobs) for find, job in found]
    return Orphans(finds=tuple(shown), notes=tuple(notes))


async def collect(question: CollectOrphans, settings: Settings) -> Orphans:
    """Remove it. What is gone already is not found, so repeating it does no harm."""
    deadline = time.monotonic() + BUDGET_S
    found, notes = await finds(settings)
    removed = [await _removed(find, job, question.unknown_jobs, deadline) for find, job in found]
    return Orphans(finds=tuple(removed), notes=tuple(notes))


async def _shown(find: Find, job: Job | None, unknown_jobs: bool) -> Orphan:
    try:
        _ended(find.job_id, unknown_jobs)
        await find.check(job)
    except Kept as kept:
        return _document(find, job, kept=str(kept))
    return _document(find, job)


async def _removed(find: Find, job: Job | None, unknown_jobs: bool, deadline: float) -> Orphan:
    def recheck() -> None:
        _ended(find.job_id, unknown_jobs)

    try:
        if time.monotonic() > deadline:
            raise Kept("there was no time left: run `drover gc` again")
        recheck()
        await find.check(job)
        await find.remove(job, recheck)
    except (DroverError, OSError) as error:  # TimeoutError is an OSError
        return _document(find, job, kept=str(error) or "it took too long")
    return _document(find, job, removed=True)


def _document(find: Find, job: Job | None, *, removed: bool = False, kept: str | None = None) -> Orphan:
    why = "the database has no such job" if job is None else f"the job is {job.state}"
    if isinstance(find, Retired):
        why += ", and it was kept long enough"
    became = "removed" if removed else f"kept: {kept}" if kept else "found"
    log.info("orphan %s, %s: %s (%s)", find.kind, find.what, became, why, extra={"job": find.job_id})
    return Orphan(kind=find.kind, what=find.what, job=find.job_id, why=why, removed=removed, kept=kept)


def _ended(job_id: int, unknown_jobs: bool) -> None:
    """Asked right before anything is removed.

    Raises:
        Kept: the job has not ended, or is unknown and that is not enough.
    """
    with transaction() as session:
        state = session.scalar(select(Job.state).where(Job.id == job_id))
    if state is None and not unknown_jobs:
        raise Kept("a job missing from the database may still run: `drover gc --unknown-jobs` removes it")
    if state is not None and not state.finished:
        raise Kept(f"job {job_id} is {state}")
