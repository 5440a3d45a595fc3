"""`python -m bench.fleet.fake_worker FIRST LAST`: serves the queues of many hosts, with nothing behind them.

Claims, leases, progress and outcomes are written by Drover's own code; only what a step does to a host is a wait.
"""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore
from celery.signals import worker_ready
from sqlalchemy import func, update

from drover.broker.app import configuration, host_queue
from drover.settings import settings
from models.contracts import Versioned
from models.database import transaction
from models.guest import Guest
from models.host import Host, HostRequest, RequestState, reply
from models.host_rpc import Inspect, PlanDestination, read_question
from models.job import Direction, Side
from models.plan import DestinationPlan, Inspection, PlannedDisk, SourceDisk, Topology
from workers import executor
from workers.step import Context, StepHandler
from workflows.migration import claims

COPY_S = (10.0, 30.0)
"""The copy of a guest's disks takes between these."""
STEP_S = 0.1
"""The duration of any other step."""
THREADS = 64
DISK_BYTES, MEMORY_BYTES, CPUS = 10 * 10**9, 2 * 10**9, 2

STEPS = ("prepare_dest_image", "start_nbd", "mirror_disks", "await_sync", "migrate_ram", "cutover", "cleanup")
"""By name and not from `workers.tasks`: Celery would hand the real ones to this application too."""

app = Celery("drover-fleet")
app.add_defaults(configuration)


def host_name(number: int) -> str:
    """`sim-000`, `sim-001` and so on."""
    return f"sim-{number:03}"


class Simulated(StepHandler):
    """A step without a host: it waits, and writes down what the real one would."""

    def __init__(self, name: str, side: Side) -> None:
        self.name, self.side = name, side  # type: ignore[misc]  # of the class in real steps
        self._done = False

    async def verify(self, ctx: Context) -> bool:
        return self._done

    async def do(self, ctx: Context) -> None:
        if self.name == "await_sync":
            await self._copy(ctx)
        await asyncio.sleep(STEP_S)
        if (self.name, self.side) == ("migrate_ram", Side.SOURCE):
            with ctx.record() as (_, job, _step):
                job.cutover_begun_at = job.committed_at = ctx.claim.now()
        if (self.name, self.side) == ("cutover", Side.DESTINATION):
            with ctx.record() as (session, job, _step):
                session.get_one(Guest, job.guest).lives_on(job.destination, f"/{job.guest}")
        self._done = True

    async def _copy(self, ctx: Context) -> None:
        begun, takes = time.monotonic(), random.uniform(*COPY_S)  # nosec B311 # how long a pretended copy takes
        while (done := (time.monotonic() - begun) / takes) < 1:
            await asyncio.to_thread(self._record, ctx, done)
            await asyncio.sleep(1)
        await asyncio.to_thread(self._record, ctx, 1.0)

    def _record(self, ctx: Context, done: float) -> None:
        with ctx.record() as (_, job, _step):
            for disk in job.disks:
                disk.bytes_copied, job.progress_at = int(done * disk.bytes_total), ctx.claim.now()
                disk.ready_at = ctx.claim.now() if done >= 1 else None


def _register(name: str, direction: Direction) -> None:
    prefix = {Direction.DO: "drover.step.", Direction.ROLLBACK: "drover.rollback."}[direction]

    @app.task(name=prefix + name, bind=True, ignore_result=True)
    def run_step(self: Task[Any, Any], *, job_id: int, seq: int, epoch: int) -> None:
        told: Any = self.request.delivery_info
        host = told["routing_key"].removeprefix("drover.")
        claim = claims.claim(
            job_id=job_id,
            seq=seq,
            name=name,
            epoch=epoch,
            direction=direction,
            host=host,
            owner=f"{host}-simulated",
            settings=settings(),
        )
        if claim is None:
            raise Ignore
        executor.run(Simulated(claim.name, claim.side), claim, settings())


for _name in STEPS:
    for _direction in Direction:
        _register(_name, _direction)


@app.task(name="drover.host.answer", ignore_result=True)
def answer(*, request_id: int) -> None:
    """Every guest can be moved, and every host takes it."""
    with transaction() as session:
        request = session.get_one(HostRequest, request_id)
        reply(
            session,
            request_id,
            RequestState.ANSWERED,
            ANSWERS[request.kind](read_question(request.kind, request.question)),
        )


def _inspection(question: Inspect) -> Inspection:
    disk = SourceDisk(
        index=0,
        device="disk0",
        qdev="/disk0",
        node="disk0",
        format="raw",
        path="/s",
        virtual_size_bytes=DISK_BYTES,
        create_options={},
    )
    return Inspection(
        pid=1,
        started=1,
        qmp=question.qmp,
        argv=("qemu",) * 40,
        exe="/usr/bin/qemu",
        qemu_version=(10, 0, 2),
        accel="kvm",
        machine_type="q35",
        runstate="running",
        memory_bytes=MEMORY_BYTES,
        cpus=CPUS,
        devices=(),
        topology=Topology(qtree=tuple(f"device {number}" for number in range(60)), ramblocks=("pc.ram",)),
        disks=(disk,),
    )


def _destination(question: PlanDestination) -> DestinationPlan:
    disk = PlannedDisk(
        index=0,
        device="disk0",
        format="raw",
        source_path="/s",
        destination_path="/d",
        virtual_size_bytes=DISK_BYTES,
        create_options={},
        discard="unmap",
    )
    return DestinationPlan(
        argv=("qemu",) * 40,
        qmp=question.source.qmp,
        qemu="/usr/bin/qemu",
        qemu_version=(10, 0, 2),
        ram="live",
        disks=(disk,),
    )


ANSWERS: dict[str, Callable[[Any], Versioned]] = {"inspect": _inspection, "plan_destination": _destination}


@worker_ready.connect
def begin_heartbeats(**_: Any) -> None:
    """One statement per host and beat, as from real workers."""
    threading.Thread(target=_beat, daemon=True).start()


def _beat() -> None:
    while not executor.STOPPING.wait(settings().heartbeat.total_seconds()):
        for name in _served:
            with transaction() as session:
                session.execute(update(Host).where(Host.name == name).values(heartbeat_at=func.clock_timestamp()))


_served: list[str] = []


def main() -> None:
    """Serve these hosts."""
    first, last = map(int, sys.argv[1:3])
    _served.extend(host_name(number) for number in range(first, last))
    queues = [host_queue(name) for name in _served]
    options = {"without_gossip": True, "without_mingle": True, "loglevel": "WARNING"}
    app.Worker(hostname=f"hands-{first}@sim", queues=queues, concurrency=THREADS, **options).start()


if __name__ == "__main__":
    main()
