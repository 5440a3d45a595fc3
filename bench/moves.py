"""Moves by Drover and by the floor in turns, with the same guest: downtime, overhead, throughput, guest's writes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.figures import P95, Figure, median, quantile
from bench.guests import Move, booted
from bench.observer import latency_ms
from lab.directory import Lab
from lab.guest.spec import DiskSpec

MIB = 1 << 20
P99 = 0.99
IDLE = {"write_rate": 0}
LIGHT = {"write_rate": 200, "dirty_mib": 16, "dirty_rate": 4}
HEAVY = {"write_rate": 1000, "dirty_mib": 48, "dirty_rate": 16}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One guest that is moved to and fro."""

    name: str
    load: dict[str, Any]
    disks: int = 1
    disk_mib: int = 1024
    fill_mib: int = 256
    bandwidth_bytes_per_s: int = 0
    moves: list[Move] = field(default_factory=list)

    def run(self, lab: Lab, runs: int) -> None:
        """So many moves of each kind, in turns."""
        disks = (DiskSpec(size_bytes=self.disk_mib * MIB),) * self.disks
        with booted(lab, f"bench-{self.name}", disks=disks, fill_mib=self.fill_mib, **self.load) as guest:
            for by in turns(runs, "drover", "floor"):
                move = guest.move(by, bandwidth_bytes_per_s=self.bandwidth_bytes_per_s)
                self.moves.append(move)
                print(f"  {self.name}: {line(move)}", flush=True)

    def of(self, by: str) -> list[Move]:
        """The moves of one kind."""
        return [move for move in self.moves if move.by == by]


def turns(runs: int, *ways: str) -> Iterator[str]:
    """Each way once a round, and each round begins with the next: of two, neither always goes to the same host."""
    for number in range(runs):
        first = number % len(ways)
        yield from ways[first:] + ways[:first]


def line(move: Move) -> str:
    """A line of progress while the benchmark goes on."""
    seen, phases = move.seen, ", ".join(f"{name} {ms:.1f}" for name, ms in move.times.phases_ms.items())
    return (
        f"{move.by:7} paused {seen.downtime_ms:6.1f} ms ({phases}), copy {seen.copy_s:.2f} s, ram {seen.ram_s:.2f} s, "
        f"all {move.total_s:.2f} s"
    )


def scenarios(*, quick: bool) -> list[Scenario]:
    """Guests from idle to heavy, small disks and large ones, one disk and four; and one whose copy takes a while."""
    loads = {"idle": IDLE, "light": LIGHT, "heavy": HEAVY}
    if quick:
        return [Scenario(name="light", load=LIGHT)]
    small = [Scenario(name=f"{name}-1g", load=load) for name, load in loads.items()]
    large = [Scenario(name=f"{name}-8g", load=loads[name], disk_mib=8192, fill_mib=1024) for name in ("light", "heavy")]
    four = Scenario(name="four-disks", load=LIGHT, disks=4)
    writes = Scenario(name="writes", load={"write_rate": 600}, fill_mib=512, bandwidth_bytes_per_s=64 * MIB)
    return [*small, *large, four, writes]


def figures(scenario: Scenario) -> list[Figure]:
    """The figures of one scenario."""
    found = [_downtime(scenario), _worst_downtime(scenario), _overhead(scenario)]
    if scenario.bandwidth_bytes_per_s == 0:
        found.append(_throughput(scenario))
    if scenario.name == "writes":
        found.append(_writes(scenario))
    return found


def _series(scenario: Scenario, values: dict[str, list[float]], axis: str) -> dict[str, Any]:
    return {"series": values, "axis": f"{axis}, {scenario.name}"}


def _by_kind(scenario: Scenario, value: Callable[[Move], float]) -> dict[str, list[float]]:
    return {by: [value(move) for move in scenario.of(by)] for by in ("floor", "drover")}


def _downtime(scenario: Scenario) -> Figure:
    values = _by_kind(scenario, lambda move: move.seen.downtime_ms)
    return Figure(
        name=f"downtime-{scenario.name}",
        what=f"downtime over the floor's, median, {scenario.name}",
        value=median(values["drover"]) / median(values["floor"]),
        at_most=1.10,
        far=3.0,
        **_series(scenario, values, "downtime, ms"),
    )


def _worst_downtime(scenario: Scenario) -> Figure:
    values = _by_kind(scenario, lambda move: move.seen.downtime_ms)
    return Figure(
        name=f"downtime-p95-{scenario.name}",
        what=f"downtime over the floor's, p95, {scenario.name}",
        value=quantile(values["drover"], P95) / quantile(values["floor"], P95),
        at_most=1.3,
    )


def _overhead(scenario: Scenario) -> Figure:
    values = _by_kind(scenario, lambda move: move.overhead_s)
    return Figure(
        name=f"overhead-{scenario.name}",
        what=f"total time less copy and RAM, {scenario.name} (the floor's: {median(values['floor']):.2f} s)",
        value=median(values["drover"]),
        unit="s",
        at_most=0.5,
        far=2.5,
        **_series(scenario, values, "total time less copy and RAM, s"),
    )


def _throughput(scenario: Scenario) -> Figure:
    values = _by_kind(scenario, lambda move: move.seen.copied_bytes / move.seen.copy_s / MIB)
    return Figure(
        name=f"throughput-{scenario.name}",
        what=f"mirror throughput over the floor's, {scenario.name}",
        value=median(values["drover"]) / median(values["floor"]),
        at_least=0.97,
        far=0.4,
        **_series(scenario, values, "mirrors, MiB/s"),
    )


def _writes(scenario: Scenario) -> Figure:
    """Of all writes of all moves together: those one way are slower than those the other way, with every mover."""
    series = _by_kind(scenario, lambda move: latency_ms(move.seen.write_bins, P99) or 0.0)
    floor, drover = (latency_ms(_pooled(scenario.of(by)), P99) or math.nan for by in ("floor", "drover"))
    return Figure(
        name="write-latency",
        what=f"p99 of the guest's own writes during the copy over the floor's ({drover:.2f} ms and {floor:.2f} ms)",
        value=drover / floor,
        at_most=1.05,
        **_series(scenario, series, "p99 of the guest's writes, ms"),
    )


def _pooled(moves: list[Move]) -> list[int]:
    """The histogram of all their writes together."""
    return [sum(bins) for bins in zip(*(move.seen.write_bins for move in moves), strict=True)]
