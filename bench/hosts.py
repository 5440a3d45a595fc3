"""What Drover takes from a host and from the database: memory and CPU of a worker at rest, statements per move."""

import os
import runpy
import time
from pathlib import Path

from bench.figures import Figure
from bench.guests import booted, ended_job
from bench.measuring import cpu_s, memory_mib
from bench.moves import LIGHT, MIB
from bench.statements import Transaction, logged
from drover.broker.app import app
from drover.settings import settings
from lab.directory import Lab
from lab.guest.spec import DiskSpec
from models.access import Scope
from models.database import transaction
from models.job import Job
from workers.process import processes
from workflows import access

SIGNING = Path(__file__).parents[1] / "examples/celery/signing.py"
REST_S = 20.0
OURSELVES = "bench"


def measure(lab: Lab) -> list[Figure]:
    """Figures of a worker at rest, and of one move by task name."""
    time.sleep(REST_S / 2)  # until what starts has started
    [worker] = processes.find(lab.mark("worker-host-a"))
    before, cpu = memory_mib(worker.pid), cpu_s(worker.pid)
    time.sleep(REST_S)
    used = 100 * (cpu_s(worker.pid) - cpu) / REST_S
    return [
        Figure(name="memory", what="a host's worker at rest (PSS)", value=before, unit="MiB", at_most=70, far=140),
        Figure(name="cpu", what="a host's worker at rest, of a core", value=used, unit="%", at_most=1, far=10),
        *_statements(lab),
    ]


def _statements(lab: Lab) -> list[Figure]:
    """Of one move whose copy takes some ten seconds, less what goes on without it."""
    os.environ["DROVER_HOST"] = OURSELVES  # so that our own queries can be told apart
    settings.cache_clear()
    with booted(lab, "bench-statements", disks=(DiskSpec(size_bytes=1024 * MIB),), fill_mib=256, **LIGHT) as guest:
        with logged(lab) as quiet:
            time.sleep(REST_S)
        with logged(lab) as seen:
            begun = time.time()
            job = _moved(guest.spec.name)
        guest.moved_to("host-b")
    assert job.finished_at is not None
    took = job.finished_at.timestamp() - begun
    ours = [t for t in seen if OURSELVES not in t.who and begun <= t.at <= begun + took]
    idle = _count([t for t in quiet if OURSELVES not in t.who]) / REST_S
    progress = [t for t in ours if t.is_progress]
    writes = [t for t in progress if any("UPDATE job SET" in sql for sql in t.statements)]
    ready = max(disk.ready_at.timestamp() for disk in job.disks if disk.ready_at)
    copying = ready - next(s.started_at for s in job.steps if s.name == "await_sync" and s.started_at).timestamp()
    value = _count(ours) - _count(progress) - idle * took
    return [
        Figure(
            name="statements",
            what=f"statements of a move apart from progress (nor BEGIN, COMMIT, pings; at rest {idle:.1f} a second)",
            value=value,
            at_most=60,
            far=120,
        ),
        Figure(
            name="progress",
            what=f"progress writes per second of a move ({len(writes)} in a copy of {copying:.1f} s)",
            value=len(writes) / took,
            at_most=1,
            far=4,
        ),
    ]


def _moved(guest: str) -> Job:
    key, task = f"{guest}-{time.time()}", "drover.job.submit"
    asked = {"guest": guest, "to": "host-b", "idempotency_key": key, "bandwidth_bytes_per_s": 32 * MIB}
    token, secret = access.add(OURSELVES, Scope.OPERATE, None)
    signed = runpy.run_path(str(SIGNING))["signed"](task, asked, token=token.id, secret=secret)
    app.send_task(task, kwargs=signed, queue="drover.control")
    while True:
        with transaction() as session:
            job = session.query(Job).where(Job.idempotency_key == key).one_or_none()
        if job is not None:
            return ended_job(job.id)
        time.sleep(0.1)


def _count(transactions: list[Transaction]) -> int:
    return sum(len(each.statements) for each in transactions)
