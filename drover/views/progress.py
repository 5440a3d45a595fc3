"""Progress of a job: bars with rate and remaining time, from successive snapshots. No I/O."""

from collections import deque
from dataclasses import dataclass, field

from drover.views.queries import Snapshot
from drover.words import size
from models.documents import RamProgress
from models.job import Disk, Job, JobState

WINDOW_S = 10.0
"""Rates are means over this time; workers record progress once a second."""


@dataclass(frozen=True)
class Bar:
    """One disk, or the RAM."""

    label: str
    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    complete: bool
    going: bool = True
    """Its job goes on."""
    note: str = ""

    @property
    def ended(self) -> bool:
        """Nothing more of it is sent."""
        return self.complete or not self.going

    @property
    def fraction(self) -> float:
        """From 0 to 1; 1 only when it is complete, for a mirror that is equal once can fall behind again."""
        if self.complete:
            return 1.0
        return min(self.done_bytes / self.total_bytes, 0.999) if self.total_bytes else 0.0

    @property
    def percent(self) -> int:
        """Rounded down."""
        return int(100 * self.fraction)

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the present rate, if there is one."""
        if self.ended or self.bytes_per_s <= 0:
            return None
        return max(self.total_bytes - self.done_bytes, 0) / self.bytes_per_s


@dataclass
class Meter:
    """The rate of a growing number."""

    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def rate(self, now: float, value: int) -> float:
        """Take a value in; returns the mean growth per second over the last `WINDOW_S`."""
        if self.samples and value < self.samples[-1][1]:
            self.samples.clear()  # a copy that begins anew
        self.samples.append((now, value))
        while len(self.samples) > 2 and self.samples[1][0] <= now - WINDOW_S:
            self.samples.popleft()
        begun, first = self.samples[0]
        return (value - first) / (now - begun) if now > begun else 0.0


class Progress:
    """The bars of one job; remembers what rates need."""

    def __init__(self) -> None:
        self._meters: dict[int, Meter] = {}

    def bars(self, shot: Snapshot) -> list[Bar]:
        """One per disk, and one for the RAM as soon as it moves."""
        now = shot.at.timestamp()
        bars = [self._disk(shot.job, disk, now) for disk in shot.job.disks]
        return bars + ([_ram(shot.job)] if shot.job.ram else [])

    def _disk(self, job: Job, disk: Disk, now: float) -> Bar:
        meter = self._meters.setdefault(disk.index, Meter())
        return Bar(
            label=f"disk {disk.index}",
            done_bytes=disk.bytes_done,
            total_bytes=disk.bytes_size,
            bytes_per_s=meter.rate(now, disk.bytes_copied),
            complete=disk.ready_at is not None or _carried(job),
            going=job.state is JobState.RUNNING,
            note=_note(disk),
        )


def _note(disk: Disk) -> str:
    anew = f", {size(disk.bytes_rewritten)} written anew since" if disk.bytes_rewritten else ""
    return disk.format + anew


def _carried(job: Job) -> bool:
    """Nothing is left to be sent."""
    return job.state is JobState.DONE or job.committed_at is not None


def _ram(job: Job) -> Bar:
    ram = job.ram or RamProgress()
    return Bar(
        label="RAM",
        done_bytes=ram.total if _carried(job) else max(ram.total - ram.remaining, 0),
        total_bytes=ram.total,
        bytes_per_s=ram.bytes_per_s,
        complete=_carried(job),
        going=job.state is JobState.RUNNING,
        note=f"pass {ram.passes}" if ram.passes else "",
    )
