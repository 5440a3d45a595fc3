"""The live migration: its links in order, and the canvas chains made of them."""

from celery import chain
from celery.canvas import Signature

from drover.broker.app import app, host_queue
from models.job import Direction, Job, JobState, Side, Step, StepState

LINKS: tuple[tuple[str, Side], ...] = (
    ("prepare_dest_image", Side.DESTINATION),
    ("start_nbd", Side.DESTINATION),
    ("mirror_disks", Side.SOURCE),
    ("await_sync", Side.SOURCE),
    ("migrate_ram", Side.DESTINATION),  # a QEMU waits, its switchover process listens
    ("migrate_ram", Side.SOURCE),  # RAM is sent; the switchover processes carry the guest over
    ("cutover", Side.SOURCE),  # it stands still for good: no way back from here
    ("cutover", Side.DESTINATION),  # it runs here, and the record says so
    ("cleanup", Side.SOURCE),
    ("cleanup", Side.DESTINATION),
)
"""Two links of one name are one step in which both hosts act."""

TASK_PREFIX = {Direction.DO: "drover.step.", Direction.ROLLBACK: "drover.rollback."}


def task_name(direction: Direction, step: str) -> str:
    """What Flower shows for a step."""
    return TASK_PREFIX[direction] + step


def steps(source: str, destination: str) -> list[Step]:
    """The rows of a new job's steps."""
    hosts = {Side.SOURCE: source, Side.DESTINATION: destination}
    return [Step(seq=seq, name=name, side=side, host=hosts[side]) for seq, (name, side) in enumerate(LINKS, start=1)]


def remaining(job: Job) -> list[tuple[Direction, Step]]:
    """What the job still needs, in order. No I/O."""
    if job.state is JobState.RUNNING:
        return [(Direction.DO, step) for step in job.steps if step.state is not StepState.DONE]
    if job.state is JobState.ROLLING_BACK:
        return [(Direction.ROLLBACK, step) for step in reversed(job.steps) if step.state is StepState.TO_ROLL_BACK]
    return []


def remaining_chain(job: Job) -> "Signature[None] | None":
    """The canvas chain of what remains, each link bound to its host's queue; arguments are ids only."""
    links = [_link(job, direction, step) for direction, step in remaining(job)]
    return chain(*links) if links else None


def _link(job: Job, direction: Direction, step: Step) -> "Signature[None]":
    """One message. `argsrepr` and `kwargsrepr` are what Flower and logs show of it instead of the ids."""
    return app.signature(
        task_name(direction, step.name),
        kwargs={"job_id": job.id, "seq": step.seq, "epoch": job.epoch},
        queue=host_queue(step.host),
        immutable=True,
        argsrepr=f"{job.guest}: {job.source} to {job.destination}",
        kwargsrepr=f"job {job.id}, link {step.seq} of {len(job.steps)} on {step.host}",
    )
