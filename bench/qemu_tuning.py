"""What QEMU offers for a shorter pause, each tried on the floor, where nothing else changes."""

from typing import Any

from bench.figures import Figure, median
from bench.guests import Move, booted
from bench.moves import HEAVY, LIGHT, MIB, line, turns
from lab.directory import Lab
from lab.guest.spec import DiskSpec

TRIED: dict[str, dict[str, Any]] = {
    "plain": {},
    "multifd": {"multifd": 2},
    "nodelay": {"nodelay": True},
    "nodelay, write-blocking": {"nodelay": True, "write_blocking": True},
}
BESIDE = {"multifd": "plain", "nodelay": "plain", "nodelay, write-blocking": "nodelay"}
"""What each is compared with."""


def measure(lab: Lab, runs: int) -> list[Figure]:
    """Guests with a light and a heavy load, each moved in all ways in turns."""
    found = []
    for load_name, load in (("light", LIGHT), ("heavy", HEAVY)):
        disk = DiskSpec(size_bytes=1024 * MIB)
        moves: dict[str, list[Move]] = {way: [] for way in TRIED}
        with booted(lab, f"spared-{load_name}", disks=(disk,), fill_mib=256, **load) as guest:
            for way in turns(runs, *TRIED):
                moves[way].append(guest.move("floor", floor=TRIED[way]))
                print(f"  {load_name}, {way}: {line(moves[way][-1])}", flush=True)
        found += [_figure(load_name, way, moves) for way in BESIDE]
    return found


def _figure(load_name: str, way: str, moves: dict[str, list[Move]]) -> Figure:
    pauses = {name: [move.seen.downtime_ms for move in moves[name]] for name in (BESIDE[way], way)}
    ends = {name: median([move.times.phases_ms["mirror_end"] for move in moves[name]]) for name in pauses}
    told = ", ".join(
        f"{name} {median(values):.1f} ms, {ends[name]:.1f} of it mirrors" for name, values in pauses.items()
    )
    return Figure(
        name=f"spared-{way.replace(', ', '-')}-{load_name}",
        what=f"the floor's downtime with {way} over {BESIDE[way]}, {load_name} ({told})",
        value=median(pauses[way]) / median(pauses[BESIDE[way]]),
        series=pauses,
        axis=f"downtime of the floor, ms, {load_name}",
    )
