"""What QEMU says of a guest for some seconds after its switchover."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.qemu.monitor import Monitor, MonitorLost

EVERY_S = 0.5
ANNOUNCED = {"initial": 50, "max": 550, "rounds": 5, "step": 100}
"""As right after the switchover: a switch that missed the first announcement learns the new place all the same."""
WELL = frozenset({"running", "paused", "suspended"})
"""The latter two its owner, or the guest itself, has chosen."""
FAILED = ("failed_rd_operations", "failed_wr_operations", "failed_flush_operations")


@dataclass(kw_only=True)
class Seen:
    """What was seen of a guest during the watch."""

    runstate: str = "unknown"
    reads: int = 0
    """Of its disks, since the watch began; likewise the next."""
    writes: int = 0
    problems: list[str] = field(default_factory=list)


async def watch(monitor: Monitor, seconds: float) -> Seen:
    """Look at run state and I/O for so long, and announce the guest's addresses once more each second."""
    seen, until = Seen(), time.monotonic() + seconds
    try:
        first = await _io(monitor)
        announced_at = 0.0
        while not seen.problems:
            seen.runstate = (await monitor.query("query-status"))["status"]
            now = await _io(monitor)
            seen.reads, seen.writes = (now[name] - first[name] for name in ("rd_operations", "wr_operations"))
            seen.problems += [*_of_its_state(seen.runstate), *_of_its_disks(first, now)]
            seen.problems += _stopped(await monitor.query("query-block"))
            if time.monotonic() >= until:
                break
            if time.monotonic() >= announced_at + 1.0:
                announced_at = time.monotonic()
                await monitor.execute("announce-self", **ANNOUNCED)
            await asyncio.sleep(min(EVERY_S, max(until - time.monotonic(), 0.0)))
    except MonitorLost as error:
        seen.problems.append(f"its QEMU gives no answer: {error}")
    return seen


async def _io(monitor: Monitor) -> dict[str, int]:
    """Operations of all disks together, by their kinds."""
    disks = [disk["stats"] for disk in await monitor.query("query-blockstats")]
    return {name: sum(disk.get(name, 0) for disk in disks) for name in ("rd_operations", "wr_operations", *FAILED)}


def _of_its_state(runstate: str) -> Iterator[str]:
    if runstate not in WELL:
        yield f"it is {runstate}"


def _of_its_disks(first: Mapping[str, int], now: Mapping[str, int]) -> Iterator[str]:
    if failed := sum(now[name] - first[name] for name in FAILED):
        yield f"{failed} requests of its disks failed"


def _stopped(drives: list[dict[str, Any]]) -> Iterator[str]:
    """A drive that waits because its image cannot be written."""
    for drive in drives:
        if drive.get("io-status", "ok") != "ok":
            yield f"its disk {drive.get('device') or drive.get('qdev')} has stopped: {drive['io-status']}"
