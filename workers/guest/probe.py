"""Observes a guest that a job moves: facts only, from this host's processes, monitors and journals."""

import asyncio

from drover.errors import DroverError, Fatal, PreconditionFailed
from drover.settings import Settings
from models.database import transaction
from models.host_rpc import Observation, Observe
from models.job import Job, Side
from models.plan import Plan
from workers.launcher import cold
from workers.process import processes
from workers.process.processes import Process
from workers.qemu.monitor import connect
from workers.step import JobDirectory
from workers.switchover import journal
from workers.trust import held_plan

SILENT = (None, None)
"""Its monitor gives no answer."""


async def observe(question: Observe, settings: Settings) -> Observation:
    """Look at one side of a job."""
    with transaction() as session:
        job = session.get_one(Job, question.job_id)
    if job.plan is None:
        raise PreconditionFailed(f"job {job.id} has no plan: it was refused before it began")
    directory = JobDirectory.of(job.id, settings)
    try:
        plan = held_plan.followed(directory.path, job, question.side, settings)
    except Fatal as error:
        raise PreconditionFailed(str(error)) from error
    if question.side is Side.SOURCE:
        return await _source(plan, directory)
    return await _destination(plan, job.guest, directory, settings)


async def _source(plan: Plan, directory: JobDirectory) -> Observation:
    alive = Process(plan.source.pid, plan.source.started).alive
    journals = [journal.read(path) for _, path in directory.switch_journals(Side.SOURCE)]
    runstate, migration = await _ask(plan.source.qmp) if alive else SILENT
    return Observation(
        alive=alive,
        runstate=runstate,
        migration=migration,
        told_to_run=any(one.committed for one in journals),
        went_on=any(one.went_on and one.last("continuing") is not None for one in journals),
    )


async def _destination(plan: Plan, guest: str, directory: JobDirectory, settings: Settings) -> Observation:
    """A QEMU that was started cold there, by hand or by its unit, runs the guest like that of the move."""
    incoming = bool(processes.find(directory.mark("incoming")))
    alive = incoming or await asyncio.to_thread(cold.running, guest, settings) is not None
    runstate, migration = await _ask(plan.destination.qmp) if alive else SILENT
    return Observation(alive=alive, runstate=runstate, migration=migration, may_run=directory.may_run_here)


async def _ask(qmp: str) -> tuple[str | None, str | None]:
    """Run state, and state of the migration."""
    try:
        async with connect(qmp, timeout_s=2.0) as monitor:
            runstate = (await monitor.query("query-status", timeout_s=2.0))["status"]
            migration = (await monitor.query("query-migrate", timeout_s=2.0)).get("status", "none")
            return runstate, migration
    except DroverError:
        return SILENT
