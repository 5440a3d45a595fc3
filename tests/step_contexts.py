"""A step of a job that a worker has claimed, on a host that holds to its plan: what is tried without any guest."""

import asyncio
from pathlib import Path
from typing import Any

from sqlalchemy import func

from models.database import transaction
from models.job import Direction, Job, JobState, Side, StepState
from models.plan import Plan
from tests import factories
from tests.documents import destination_plan, inspection
from workers import files
from workers.files import write_durably
from workers.guest.run_marker import SET_CONTENT
from workers.step import Context
from workers.steps import STEPS
from workers.trust import held_plan
from workflows.migration.links import LINKS, StepName

Link = tuple[StepName, Side]


def claimed(folder: Path, link: Link, direction: Direction, *, process: str | None = None, **columns: Any) -> Context:
    """It is this link's turn in a job that moves web from host one to host two; `process` is web's QEMU there."""
    for name in ("one", "two"):
        factories.host(name)
    factories.guest("web", "one")
    back = direction is Direction.ROLLBACK
    position = LINKS.index(link)
    job = factories.job("web", "two", state=JobState.ROLLING_BACK if back else JobState.RUNNING, **columns)
    with transaction() as session:
        steps = session.get_one(Job, job).steps
        for step in steps[:position]:
            step.state, step.started_at = StepState.TO_ROLL_BACK if back else StepState.DONE, func.now()
        if back:
            steps[position].state, steps[position].started_at = StepState.TO_ROLL_BACK, func.now()
    host = "two" if link[1] is Side.DESTINATION else "one"
    ours = factories.ours(host=host, directory=folder / "worker", guest_root=folder)
    ctx = Context(claim=factories.claim(ours, job, position, direction), settings=ours)
    files.private_folder(ctx.directory.path)
    held_plan.hold(ctx.directory.path, _planned(folder, process))
    return ctx


def _planned(folder: Path, process: str | None) -> Plan:
    seen, there = inspection(pid=2**22 + 1, process=process), destination_plan(qmp=str(folder / "nobody"))
    places = {"source_path": str(folder / "here.raw"), "destination_path": str(folder / "there.raw")}
    disks = tuple(disk.model_copy(update=places) for disk in there.disks)
    return Plan(source=seen, destination=there.model_copy(update={"disks": disks}))


def done(ctx: Context) -> None:
    """The step is done, or rolled back, as its claim says."""
    step = STEPS[ctx.claim.name, ctx.claim.side]
    asyncio.run(step.do(ctx) if ctx.claim.direction is Direction.DO else step.rollback(ctx))


def ran_here(ctx: Context) -> None:
    """This host, the destination, was told to let the guest run."""
    write_durably(ctx.directory.marker, SET_CONTENT.decode())
