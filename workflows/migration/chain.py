"""The canvas chain of what remains of a job. Its links are in `workflows.migration.links`."""

from celery import chain
from celery.canvas import Signature

from drover.broker.app import app, host_queue
from drover.escaping import escaped
from models.job import Direction, Job, Step

TASK_PREFIX = {Direction.DO: "drover.step.", Direction.ROLLBACK: "drover.rollback."}


def task_name(direction: Direction, step: str) -> str:
    """What Flower shows for a step."""
    return TASK_PREFIX[direction] + step


def remaining_chain(job: Job) -> "Signature[None] | None":
    """The canvas chain of what remains, each link bound to its host's queue; arguments are ids only."""
    if job.direction is None:
        return None
    links = [_link(job, job.direction, step) for step in job.remaining]
    return chain(*links) if links else None


def _link(job: Job, direction: Direction, step: Step) -> "Signature[None]":
    """One message. `argsrepr` and `kwargsrepr` are what Flower and logs show of it instead of the ids."""
    return app.signature(
        task_name(direction, step.name),
        kwargs={"job_id": job.id, "seq": step.seq, "epoch": job.epoch},
        queue=host_queue(step.host),
        immutable=True,
        argsrepr=escaped(f"{job.guest}: {job.source} to {job.destination}"),
        kwargsrepr=f"job {job.id}, link {step.seq} of {len(job.steps)} on {step.host}",
    )
