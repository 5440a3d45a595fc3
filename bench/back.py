"""A guest with a full disk of 8 GiB goes back to where it came from after it has changed 100 MB of it, or little."""

import asyncio
import json
import subprocess
import time

from bench.command_line import DROVER
from bench.figures import Figure, median
from bench.guests import Guest, booted, ended_job
from bench.moves import MIB
from lab import network
from lab.directory import Lab
from lab.guest.spec import DiskSpec
from models.job import Job
from workers.qemu import written
from workers.qemu.monitor import Monitor, connect
from workflows.migration import jobs

DISK_MIB, CHANGED_MB = 8 * 1024, 100
WINDOW_MIB = 128
"""What the guest writes to, over and over."""
QUIET = 5
"""Writes per second while it is moved: they come on top, and are not what is measured."""


def measure(lab: Lab, runs: int) -> list[Figure]:
    """The bytes that cross the network on the way back over those that changed, its time over the first move's, and how
    soon the guest runs at home that was asked back by a command.
    """
    disk = DiskSpec(size_bytes=DISK_MIB * MIB)
    fill_mib = DISK_MIB - WINDOW_MIB - 64
    with booted(lab, "bench-back", disks=(disk,), fill_mib=fill_mib, window_mib=WINDOW_MIB, write_rate=2000) as guest:
        asyncio.run(_limit(guest, QUIET))
        first, _ = _moved(guest)
        asyncio.run(_limit(guest, 0))
        asyncio.run(_until_changed(guest))
        asyncio.run(_limit(guest, QUIET))
        back, crossed = _moved(guest)
        asked = [_asked(guest) for _ in range(runs)]
        asyncio.run(_limit(guest, 0))
    changed = sum((disk.delta_bytes or 0) + disk.bytes_rewritten for disk in back.disks)
    assert all(disk.delta_bytes for disk in back.disks), f"job {back.id} sent all of it"
    sent = crossed - (back.ram.transferred if back.ram is not None else 0)
    first_s, back_s = _took_s(first), _took_s(back)
    return [
        Figure(
            name="back-bytes",
            what=f"a way back: bytes over the network but for RAM ({sent / 1e6:.1f} MB) over what had changed "
            f"({changed / 1e6:.1f} MB)",
            value=sent / changed,
            at_most=1.1,
            far=2.0,
        ),
        Figure(
            name="back-time",
            what=f"a way back: its time ({back_s:.2f} s) over the first move's ({first_s:.2f} s)",
            value=back_s / first_s,
            at_most=0.15,
            far=0.5,
        ),
        _soon(asked),
    ]


def _soon(asked: list[tuple[float, float]]) -> Figure:
    all_of_it, ram = (median(values) for values in zip(*asked, strict=True))
    return Figure(
        name="back-asked",
        what=f"a way back after little has changed: from `drover migrate --back` to the guest running at home "
        f"({all_of_it:.2f} s, median), but for its RAM ({ram:.2f} s)",
        value=median([whole - sent for whole, sent in asked]),
        unit="s",
        at_most=1.0,
        far=4.0,
    )


def _asked(guest: Guest) -> tuple[float, float]:
    """To where it came from, by the command: after how many seconds it runs there, and what its RAM took of them."""
    to, observer = guest.other_host, guest.observer()
    begun = time.time()
    said = subprocess.run([DROVER, "migrate", guest.spec.name, "--back", "--json"], check=True, stdout=subprocess.PIPE)
    job = ended_job(json.loads(said.stdout)["id"])
    assert all(disk.delta_bytes for disk in job.disks), f"job {job.id} sent all of it"
    seen = observer.join()
    guest.moved_to(to, images_stay=True)
    print(f"  job {job.id}: asked {seen.mirror_at - begun:.2f} s before its mirror, RAM {seen.ram_s:.2f} s", flush=True)
    return seen.resumed_at - begun, seen.ram_s


def _moved(guest: Guest) -> tuple[Job, int]:
    """To the other host; what its former host has sent meanwhile, in bytes."""
    source, to = guest.host, guest.other_host
    former = guest.lab.host(source)
    before = network.sent_bytes(guest.lab, former)
    job = ended_job(jobs.submit(guest.spec.name, to).id)
    sent = network.sent_bytes(guest.lab, former) - before
    guest.moved_to(to, images_stay=True)
    print(f"  job {job.id} took {_took_s(job):.2f} s, {sent / 1e6:.1f} MB", flush=True)
    return job, sent


def _took_s(job: Job) -> float:
    assert job.started_at is not None
    assert job.finished_at is not None
    return (job.finished_at - job.started_at).total_seconds()


async def _limit(guest: Guest, writes_per_s: int) -> None:
    none = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd"), 0)
    async with connect(guest.watch_at(guest.host)) as monitor:
        [drive] = [entry["qdev"] for entry in await monitor.query("query-block") if "inserted" in entry]
        await monitor.execute("block_set_io_throttle", id=drive, iops_wr=writes_per_s, **none)


async def _until_changed(guest: Guest) -> None:
    while True:
        async with connect(guest.watch_at(guest.host)) as monitor:
            if await _changed(monitor) >= CHANGED_MB * 1_000_000:
                return
        await asyncio.sleep(0.5)


async def _changed(monitor: Monitor) -> int:
    return sum(bitmap.count for disk in (await written.disks(monitor)).values() for bitmap in disk.bitmaps.values())
