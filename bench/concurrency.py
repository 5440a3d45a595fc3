"""What a host's worker takes while many guests leave at once: each job is a thread of it, not a process."""

import threading
from contextlib import ExitStack

from bench.drains import job_of
from bench.figures import Figure
from bench.guests import booted, ended_job
from bench.measuring import memory_mib
from bench.moves import IDLE, MIB
from lab.directory import Lab
from lab.guest.spec import DiskSpec
from models.database import transaction
from models.drain import DrainKind
from models.job import Step, StepState
from workers.process import processes
from workflows.drain import commands
from workflows.drain.planner import DrainRequest

JOBS, FILL_MIB, BUDGET = 32, 32, 16 * MIB  # so slow that all copies overlap
SAMPLE_S = 0.5
SETTINGS = {"DROVER_CONCURRENCY": "64"}
LIMITS = {"bandwidth": f"{BUDGET}B/s", **{f"max-{name}": str(JOBS) for name in ("outgoing", "incoming", "moves")}}


def measure(lab: Lab) -> list[Figure]:
    """The larger of the two workers, at its largest while all jobs were under way."""
    names = [f"one-of-{JOBS}-{number}" for number in range(JOBS)]
    with ExitStack() as stack:
        disks = (DiskSpec(size_bytes=64 * MIB, format="raw"),)
        load = {**IDLE, "disks": disks, "fill_mib": FILL_MIB, "memory_mib": 128}
        guests = [stack.enter_context(booted(lab, name, **load)) for name in names]
        watched = _Watched(lab)
        drain = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="host-a"))
        jobs = [job_of(drain.id, name) for name in names]
        for job in jobs:
            ended_job(job)
        watched.end()
        for guest in guests:
            guest.moved_to("host-b")
    return [
        Figure(
            name="crowd",
            what=f"a host's worker with {watched.most_jobs} jobs under way (PSS, at its largest)",
            value=watched.largest_mib,
            unit="MiB",
            at_most=120,
            far=240,
        )
    ]


class _Watched:
    """Looks at both workers all the time, and at how many jobs have a step running."""

    def __init__(self, lab: Lab) -> None:
        self._workers = [processes.find(lab.mark(f"worker-host-{host}"))[0].pid for host in "ab"]
        self.largest_mib, self.most_jobs = 0.0, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.largest_mib = max(self.largest_mib, *map(memory_mib, self._workers))
            with transaction() as session:
                running = session.query(Step).where(Step.state == StepState.RUNNING).count()
            self.most_jobs = max(self.most_jobs, running)
