"""What a guest does while one looks: how much it writes to its disks, and how much of its RAM it changes."""

import asyncio
import time
from typing import Any

from models.activity import Activity
from workers.qemu.monitor import CommandRefused, Monitor

SAMPLES = 8192
"""Pages of RAM that QEMU compares, of whatever size the guest is: each costs some microseconds."""
FEWEST, MOST = 128, 16384
"""That it takes for each GiB."""
PATIENCE, PAUSE_S = 10, 0.1
"""So many times it is asked whether the comparison is over, with a pause before each."""
MIB, GIB = 1 << 20, 1 << 30


async def seen(monitor: Monitor, memory_bytes: int, seconds: float) -> Activity | None:
    """Look for so long. None: for no time."""
    if not seconds:
        return None
    begun, (bytes_before, writes_before) = time.monotonic(), await _written(monitor)
    sampling = await _sample(monitor, memory_bytes, seconds)
    await asyncio.sleep(seconds)
    took, (written, writes) = time.monotonic() - begun, await _written(monitor)
    return Activity(
        seconds=round(took, 3),
        written_per_s=round(max(written - bytes_before, 0) / took, 1),
        writes_per_s=round(max(writes - writes_before, 0) / took, 1),
        dirty_per_s=await _dirty(monitor) if sampling else None,
    )


async def _written(monitor: Monitor) -> tuple[int, int]:
    """Bytes that it has written since its QEMU was started, and in how many requests."""
    stats = [drive["stats"] for drive in await monitor.query("query-blockstats")]
    return sum(int(one["wr_bytes"]) for one in stats), sum(int(one["wr_operations"]) for one in stats)


async def _sample(monitor: Monitor, memory_bytes: int, seconds: float) -> bool:
    """Have QEMU compare some pages before and after; false: it does not, or is doing so for somebody else."""
    pages = min(max(SAMPLES * GIB // max(memory_bytes, 1), FEWEST), MOST)
    how: dict[str, Any] = {"calc_time": max(round(1000 * seconds), 50), "calc_time_unit": "millisecond"}
    for asked in (how, {"calc_time": max(round(seconds), 1)}):  # before QEMU 8.2 it takes whole seconds alone
        try:
            await monitor.query("calc-dirty-rate", sample_pages=pages, **asked)
        except CommandRefused:
            continue
        return True
    return False


async def _dirty(monitor: Monitor) -> float | None:
    """What the comparison says, once it is over; None: it does not end."""
    for _ in range(PATIENCE):
        told = await monitor.query("query-dirty-rate")
        if told["status"] == "measured":
            return float(told["dirty-rate"]) * MIB
        await asyncio.sleep(PAUSE_S)
    return None
