"""Emptying a host under a bandwidth budget: how near it comes to what the budget allows."""

import time
from contextlib import ExitStack

from sqlalchemy import select

from bench.figures import Figure
from bench.guests import booted, ended_job
from bench.moves import MIB
from lab.directory import Lab
from lab.guest.spec import DiskSpec
from models.database import transaction
from models.documents import RamProgress
from models.drain import DrainKind
from models.job import Job
from workflows.drain import commands
from workflows.drain.planner import DrainRequest

GUESTS, DISK_MIB, FILL_MIB, BUDGET = 4, 1024, 384, 64 * MIB
LIMITS = {"bandwidth": f"{BUDGET}B/s", "max-outgoing": "4", "max-incoming": "4"}


def measure(lab: Lab) -> list[Figure]:
    """Four guests at once. Raw disks: of qcow2 ones QEMU 8.0 to 10.0.9 counts holes as well, see `mirror_discard`."""
    with ExitStack() as stack:
        names = [f"drained-{number}" for number in range(GUESTS)]
        spec = (DiskSpec(size_bytes=DISK_MIB * MIB, format="raw"),)
        guests = [stack.enter_context(booted(lab, name, disks=spec, fill_mib=FILL_MIB)) for name in names]
        begun = time.time()
        drain = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="host-a"))
        jobs = [ended_job(job_of(drain.id, name)) for name in names]
        for guest in guests:
            guest.moved_to("host-b")
    took = max(job.finished_at.timestamp() for job in jobs if job.finished_at) - begun
    ram = sum((job.ram or RamProgress()).transferred for job in jobs)
    disks = [disk for job in jobs for disk in job.disks]
    data, anew = sum(disk.bytes_size for disk in disks), sum(disk.bytes_rewritten for disk in disks)
    sent = data + anew + ram
    return [
        Figure(
            name="drain",
            what=f"{GUESTS} guests drained under {BUDGET // MIB} MiB/s: {took:.1f} s over bytes by budget "
            f"({data // MIB} MiB of data, {anew // MIB} written by the guests meanwhile, {ram // MIB} of RAM)",
            value=took / (sent / BUDGET),
            at_most=1.15,
            far=4,
        )
    ]


def job_of(drain_id: int, guest: str) -> int:
    """The number of its job in a drain, once its turn has come."""
    while (number := job_by_now(drain_id, guest)) is None:
        time.sleep(0.1)
    return number


def job_by_now(drain_id: int, guest: str) -> int | None:
    """The same; None: its turn has not come."""
    with transaction() as session:
        return session.scalar(select(Job.id).where(Job.drain_id == drain_id, Job.guest == guest))
