"""What encrypted streams cost: the same guest moved with `DROVER_STREAMS` encrypted and plain, by turns.

The guest is idle, so that the CPU of both sides is that of the move and not the guest's own, which grows with the time
that a move takes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from bench.figures import Figure, median
from bench.guests import booted
from bench.measuring import Cpu
from bench.moves import IDLE, MIB, line, turns
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
    source_cpu_s: list[float] = field(default_factory=list)
    """Of the guest's QEMU there, of what carries the streams and of the switchover process. Likewise the next."""
    destination_cpu_s: list[float] = field(default_factory=list)
    """With the NBD server."""


def measure(laboratory: Callable[[dict[str, str]], AbstractContextManager[Lab]], runs: int) -> list[Figure]:
    """Ratios of the medians, encrypted to plain."""
    taken = {way: Taken() for way in (StreamSecurity.PLAIN, StreamSecurity.ENCRYPTED)}
    for number, way in enumerate(turns(ROUNDS, *taken)):
        share = (runs + number // len(taken)) // ROUNDS
        with laboratory({"DROVER_STREAMS": way}) as lab:
            _move(lab, StreamSecurity(way), taken[StreamSecurity(way)], max(share, 1))
    plain, encrypted = taken.values()
    return [
        Figure(
            name=f"streams-{name.replace('_', '-')}",
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
            ("source_cpu", "CPU of the source's processes of the guest and the move", "s", 6.0),
            ("destination_cpu", "CPU of the destination's", "s", 8.0),
        )
        for ours, theirs in [(getattr(plain, f"{name}_{unit}"), getattr(encrypted, f"{name}_{unit}"))]
    ]


def _move(lab: Lab, way: StreamSecurity, times: Taken, runs: int) -> None:
    disk = DiskSpec(size_bytes=(FILL_MIB + 64) * MIB, format="raw")
    with booted(lab, "streams", disks=(disk,), fill_mib=FILL_MIB, **IDLE) as guest:
        for _ in range(runs):
            source, destination = (lab.host(name).folder for name in ("host-a", "host-b"))
            if guest.host == "host-b":
                source, destination = destination, source
            with Cpu(source) as there, Cpu(destination) as here:
                move = guest.move("drover")
            cpu = f"CPU {there.used_s:.2f} and {here.used_s:.2f} s"
            print(f"  {way}: {line(move)}, {cpu}", flush=True)
            times.source_cpu_s.append(there.used_s)
            times.destination_cpu_s.append(here.used_s)
            times.total_s.append(move.total_s)
            times.copy_s.append(move.seen.copy_s)
            times.downtime_ms.append(move.seen.downtime_ms)
