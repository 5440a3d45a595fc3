"""The jobs of a version that signed nothing: taken over once, when a worker first starts in the place of one of those.

That version did whatever the rows said, so they are believed once more: the plans of jobs that have not ended. From
then on what this host holds counts. A new host has nothing to take over. Images set aside are taken over by
`workers.images.retention.adopt`.
"""

import logging

from sqlalchemy import or_, select

from drover.errors import UnreadableDocument
from drover.settings import Settings
from models.database import transaction
from models.job import Job, unfinished
from workers.step import JobDirectory
from workers.trust import held_plan

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


def _jobs(host: str) -> list[int]:
    ours = or_(Job.source == host, Job.destination == host)
    with transaction() as session:
        return list(session.scalars(select(Job.id).where(unfinished(), ours)))


def _hold(job_id: int, ours: Settings) -> None:
    folder = JobDirectory.of(job_id, ours).path
    with transaction() as session:
        plan = session.scalars(select(Job.plan).where(Job.id == job_id)).one()
    if plan is not None and held_plan.held(folder) is None:
        held_plan.hold(folder, plan)
        log.info("takes the job over from the version before", extra={"job": job_id})
