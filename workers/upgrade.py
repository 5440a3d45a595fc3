"""The jobs of a version that signed nothing: taken over once, when a worker of this one first starts in its place.

That version did whatever the rows said, so they are believed once more: the plans of jobs that have not ended, and the
images set aside. From then on what this host holds counts. A new host has nothing to take over.
"""

import logging
from pathlib import Path

from sqlalchemy import or_, select

from drover.errors import UnreadableDocument
from drover.settings import Settings
from models.database import transaction
from models.job import Disk, Job, unfinished
from workers import held_plan
from workers.images import retention
from workers.step import JobDirectory

log = logging.getLogger(__name__)


def take_over(ours: Settings) -> None:
    """Write down what the rows say of this host."""
    for job_id in _jobs(ours.host):
        try:
            _hold(job_id, ours)
        except UnreadableDocument as error:
            log.warning(
                "the job's plan is not understood, so it will be refused here: %s", error, extra={"job": job_id}
            )
    with transaction() as session:
        retired = session.scalars(
            select(Disk).join(Job).where(Job.source == ours.host, Disk.retired_until.is_not(None))
        ).all()
    for disk in retired:
        path = Path(str(disk.retired_path))
        if path.name.endswith(f".drover-{disk.job_id}") and path.is_file() and not path.is_symlink():
            retention.remember(ours, disk.job_id, path, str(path))


def _jobs(host: str) -> list[int]:
    ours = or_(Job.source == host, Job.destination == host)
    with transaction() as session:
        return list(session.scalars(select(Job.id).where(unfinished(), ours)))


def _hold(job_id: int, ours: Settings) -> None:
    folder = JobDirectory(ours.directory / "jobs" / str(job_id)).path
    with transaction() as session:
        plan = session.scalars(select(Job.plan).where(Job.id == job_id)).one()
    if plan is not None and held_plan.held(folder) is None:
        held_plan.hold(folder, plan)
        log.info("takes the job over from the version before", extra={"job": job_id})
