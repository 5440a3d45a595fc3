"""What this host can say about a guest that a job moves: facts only, from processes, monitors and journals."""

from typing import Any

from drover.errors import DroverError
from drover.settings import Settings
from models.base import Document
from models.database import transaction
from models.job import Job, Side
from workers import processes
from workers.processes import Process
from workers.qemu.monitor import connect
from workers.step import JobDirectory
from workers.switchover import journal

SILENT: dict[str, Any] = {"runstate": None, "migration": None}


async def observe(question: Document, settings: Settings) -> Document:
    """Look at one side of a job; `question` is {"job_id", "side"}.

    Answers {"alive": the QEMU process lives, "runstate", "migration": null when its monitor gives no answer,
    "told_to_run": the source's journal has `run`, "went_on": the guest ran on at the source after it had been sent
    (both source only), "may_run": the marker (destination only)}.
    """
    with transaction() as session:
        job = session.get_one(Job, question["job_id"])
    directory = JobDirectory(settings.directory / "jobs" / str(job.id))
    if question["side"] == Side.SOURCE:
        return await _source(job, directory)
    return await _destination(job, directory)


async def _source(job: Job, directory: JobDirectory) -> Document:
    there = job.plan["source"]
    alive = Process(there["pid"], there["started"]).alive
    stories = [journal.read(path) for _, path in directory.switch_journals(Side.SOURCE)]
    told = {
        "told_to_run": any(story.committed for story in stories),
        "went_on": any(story.went_on and story.last("continuing") is not None for story in stories),
    }
    return {"alive": alive, **told, **(await _ask(there["qmp"]) if alive else SILENT)}


async def _destination(job: Job, directory: JobDirectory) -> Document:
    alive = bool(processes.find(directory.mark("incoming")))
    may_run = directory.may_run_here
    return {"alive": alive, "may_run": may_run, **(await _ask(job.plan["destination"]["qmp"]) if alive else SILENT)}


async def _ask(qmp: str) -> dict[str, Any]:
    try:
        async with connect(qmp, timeout_s=2.0) as monitor:
            runstate = (await monitor.query("query-status", timeout_s=2.0))["status"]
            migration = (await monitor.query("query-migrate", timeout_s=2.0)).get("status", "none")
            return {"runstate": runstate, "migration": migration}
    except DroverError:
        return SILENT
