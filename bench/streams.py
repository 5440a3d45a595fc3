"""What encrypted streams cost: the same guest moved with `DROVER_STREAMS` encrypted and plain, by turns."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figure, median
from bench.guests import booted
from bench.moves import LIGHT, MIB
from drover.settings import StreamSecurity
from lab.directory import Lab
from lab.guest.spec import DiskSpec

ROUNDS = 2
"""Each way has its turn so often, with a lab and a guest of its own."""
FILL_MIB = 512


@dataclass
class Taken:
    """What the moves of one way took, each list by move."""

    total_s: list[float] = field(default_factory=list)
    copy_s: list[float] = field(default_factory=list)
    downtime_ms: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Of the whole machine, which is source, destination and control node at once."""


def measure(laboratory: Callable[[dict[str, str]], AbstractContextManager[Lab]], runs: int) -> list[Figure]:
    """Ratios of the medians, encrypted to plain."""
    taken = {way: Taken() for way in (StreamSecurity.PLAIN, StreamSecurity.ENCRYPTED)}
    for _ in range(ROUNDS):
        for way, times in taken.items():
            with laboratory({"DROVER_STREAMS": way}) as lab:
                _move(lab, times, max(runs // ROUNDS, 1))
    plain, encrypted = taken.values()
    return [
        Figure(
            name=f"streams-{name}",
            what=f"encrypted over plain streams, {what} ({median(theirs):.3g} and {median(ours):.3g} {unit})",
            value=median(theirs) / median(ours),
            far=far,
            series={"plain": ours, "encrypted": theirs},
            axis=unit,
        )
        for name, what, unit, far in (
            ("copy", f"copy of {FILL_MIB} MiB", "s", 6.0),
            ("total", "whole move", "s", 4.0),
            ("downtime", "downtime", "ms", 6.0),
            ("cpu", "CPU of both hosts and the control node", "s", 6.0),
        )
        for ours, theirs in [(getattr(plain, _FIELDS[name]), getattr(encrypted, _FIELDS[name]))]
    ]


_FIELDS = {"copy": "copy_s", "total": "total_s", "downtime": "downtime_ms", "cpu": "cpu_s"}


def _move(lab: Lab, times: Taken, runs: int) -> None:
    disk = DiskSpec(size_bytes=(FILL_MIB + 64) * MIB, format="raw")
    with booted(lab, "streams", disks=(disk,), fill_mib=FILL_MIB, **LIGHT) as guest:
        for _ in range(runs):
            before = _busy_s()
            move = guest.move("drover")
            times.cpu_s.append(_busy_s() - before)
            times.total_s.append(move.total_s)
            times.copy_s.append(move.seen.copy_s)
            times.downtime_ms.append(move.seen.downtime_ms)


def _busy_s() -> float:
    """CPU time that this machine has spent since it booted."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle, waiting = ticks[3], ticks[4]
    return (sum(ticks[:8]) - idle - waiting) / os.sysconf("SC_CLK_TCK")
