"""Watches a move from outside, in the same way for all movers: by the events of both QEMUs on their second monitors."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from bench.baseline import Qmp, at

FINEST_NS, COARSEST_NS, STEP = 20_000, 2_000_000_000, 1.03
LONGEST_COPY_S = 1800.0
FEWEST_WRITES = 200
MOMENTS = {"STOP": "stopped_at", "BLOCK_JOB_COMPLETED": "mirrors_ended_at"}
RAM_MOMENTS = {"setup": "ram_at", "device": "continued_at", "completed": "completed_at"}


def _boundaries() -> list[int]:
    """Of the histogram of write latencies: each bin 3 % wider than the one before."""
    edges, edge = [], float(FINEST_NS)
    while edge < COARSEST_NS:
        edges.append(int(edge))
        edge *= STEP
    return edges


@dataclass
class Seen:
    """One move by the clocks of its two QEMUs, seconds since 1970."""

    mirror_at: float = 0.0
    ready_at: float = 0.0
    copied_bytes: int = 0
    ram_at: float = 0.0
    stopped_at: float = 0.0
    mirrors_ended_at: float = 0.0
    continued_at: float = 0.0
    """When the source's QEMU began to send what it had kept for the pause."""
    completed_at: float = 0.0
    resumed_at: float = 0.0
    write_bins: list[int] = field(default_factory=list)
    """The guest's writes while its disks were copied, by how long QEMU took for them."""

    @property
    def copy_s(self) -> float:
        """From the first mirror's start until both sides of all are equal."""
        return self.ready_at - self.mirror_at

    @property
    def ram_s(self) -> float:
        """From the start of the migration until the guest runs at the destination."""
        return self.resumed_at - self.ram_at

    @property
    def downtime_ms(self) -> float:
        """STOP at the source to RESUME at the destination."""
        return 1000 * (self.resumed_at - self.stopped_at)


def latency_ms(bins: Sequence[int], part: float) -> float | None:
    """The latency that this part of the writes in a histogram stayed below, in ms; None without enough writes."""
    total = sum(bins)
    if total < FEWEST_WRITES:
        return None
    place = next(i for i, count in enumerate(accumulate(bins)) if count >= part * total)
    return [FINEST_NS, *_boundaries(), COARSEST_NS][place] / 1e6


class Observer:
    """Two threads that listen while a move goes on; `seen` is complete after `join`."""

    def __init__(self, source: str, destination: str, devices: Sequence[str]) -> None:
        self.seen = Seen()
        self._devices = devices
        self._monitor = Qmp(source)  # connected before the move begins: nothing of it is missed
        self._threads = [
            threading.Thread(target=self._watch_source, daemon=True),
            threading.Thread(target=self._watch_destination, args=(destination,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> Seen:
        """The observations, once the move is over.

        Raises:
            TimeoutError: one of the two QEMUs never sent the event that ends a move.
        """
        for thread in self._threads:
            thread.join(timeout=30)
        if any(thread.is_alive() for thread in self._threads):
            raise TimeoutError(f"the observer still waits; it saw {self.seen}")
        return self.seen

    def _watch_source(self) -> None:
        ready = 0
        try:
            while True:
                event = self._monitor.wait(lambda _: True)
                name, data = event["event"], event.get("data", {})
                if name == "JOB_STATUS_CHANGE" and data["status"] == "created" and not self.seen.mirror_at:
                    self.seen.mirror_at = at(event)
                    self._measure_writes()
                elif name == "BLOCK_JOB_READY":
                    ready += 1
                    self._ready(event, last=ready == len(self._devices))
                elif name in MOMENTS:
                    setattr(self.seen, MOMENTS[name], at(event))
                elif name == "MIGRATION" and data["status"] in RAM_MOMENTS:
                    setattr(self.seen, RAM_MOMENTS[data["status"]], at(event))
        except ConnectionError:
            pass  # it quit: the move is over

    def _measure_writes(self) -> None:
        for device in self._devices:
            self._monitor.run("block-latency-histogram-set", id=device, boundaries_write=_boundaries())

    def _ready(self, event: dict[str, Any], *, last: bool) -> None:
        self.seen.copied_bytes += event["data"]["len"]
        if last:
            self.seen.ready_at = at(event)
            self.seen.write_bins = self._write_bins()

    def _write_bins(self) -> list[int]:
        histograms = [
            device["stats"]["wr_latency_histogram"]["bins"]
            for device in self._monitor.run("query-blockstats")
            if device.get("qdev") in self._devices
        ]
        return [sum(bins) for bins in zip(*histograms, strict=True)]

    def _watch_destination(self, path: str) -> None:
        monitor = Qmp(path, timeout_s=LONGEST_COPY_S)
        self.seen.resumed_at = at(monitor.wait(lambda event: event["event"] == "RESUME"))
