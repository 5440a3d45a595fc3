"""Celery tasks that others send by name: `drover.job.submit`. No import of ours is needed for that."""

import logging

from models.errors import PreconditionFailed
from workers.app import app
from workflows import jobs
from workflows.jobs import MigrationOptions

log = logging.getLogger(__name__)


@app.task(name="drover.job.submit", ignore_result=True)
def submit(
    *,
    guest: str,
    to: str,
    idempotency_key: str,
    max_blackout_ms: int = MigrationOptions.max_blackout_ms,
    bandwidth_bytes_per_s: int = 0,
) -> None:
    """Queue a migration, once per key however often the message arrives.

    A refusal is kept as a job in state `undone` under the same key: `drover job show --key KEY` tells.
    """
    options = MigrationOptions(max_blackout_ms=max_blackout_ms, bandwidth_bytes_per_s=bandwidth_bytes_per_s)
    try:
        jobs.submit(guest, to, options=options, idempotency_key=idempotency_key, by="drover.job.submit")
    except PreconditionFailed as error:
        log.warning("the submission %s was refused: %s", idempotency_key, error)
        jobs.record_refusal(guest, to, idempotency_key, str(error), by="drover.job.submit")


@app.task(name="drover.job.cancel", ignore_result=True)
def cancel(*, job_id: int) -> None:
    """Ask for a job's end."""
    try:
        jobs.cancel(job_id, by="drover.job.cancel")
    except PreconditionFailed as error:
        log.warning("job %d is not cancelled: %s", job_id, error)
