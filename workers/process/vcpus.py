"""On which CPUs of the host the thread of each vCPU may run."""

import os
from collections.abc import Sequence
from contextlib import suppress

from workers.process.processes import Process
from workers.qemu.monitor import Monitor


async def threads(monitor: Monitor) -> list[int]:
    """By the index of the vCPU."""
    found = await monitor.query("query-cpus-fast")
    return [cpu["thread-id"] for cpu in sorted(found, key=lambda cpu: int(cpu["cpu-index"]))]


def read(process: Process, numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The CPUs of those that are pinned, none for the others; empty if none is."""
    with suppress(OSError):
        usual = os.sched_getaffinity(process.pid)
        found = tuple(tuple(sorted(os.sched_getaffinity(number))) for number in numbers)
        pinned = tuple(cpus if set(cpus) != usual else () for cpus in found)
        return pinned if any(pinned) else ()
    return ()


async def pin(monitor: Monitor, wanted: Sequence[Sequence[int]]) -> None:
    """Likewise here, as far as this host has these CPUs."""
    if not any(wanted):
        return
    here = os.sched_getaffinity(0)
    for number, cpus in zip(await threads(monitor), wanted, strict=False):
        if there := here.intersection(cpus):
            with suppress(OSError):  # another user's, and this worker is no root
                os.sched_setaffinity(number, there)
