"""A guest that writes faster than its disks are copied may write less while they are, where its move's ladder says so.

The limits are those of its own drives (`workers.qemu.limits`). Before one is set, what the drive has of its own is
written down in the job's folder, so that whoever takes the job up, or rolls it back, can give it back; the destination
gets what is a drive's own. While the job is held in sync the guest has its own limits.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from drover import words
from models.documents import Measure, Pace
from models.job_folder import SlowedWrites
from models.plain import SlowedDrive
from workers.convergence import ACTIONS, STUCK_S
from workers.disks import mirrors
from workers.qemu import limits
from workers.qemu.block import Mirror
from workers.qemu.monitor import Monitor
from workers.step import Context

LOSING = 0.9
"""A guest that writes this part of what is copied, or more, is never caught up with in time."""
PART = 0.5
"""Of what it writes, or could write before: a small write may dirty much, so what is copied says little of that."""
FAR_S = 3.0
"""Disks that lack less than is copied in this time are being caught up with."""
BEHIND_S = 15.0
LEFT_S = 1.0
"""Disks that lack no more than is copied in this time count as equal."""


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """What was counted until one moment, in bytes."""

    at: float
    copied: int
    total: int
    """To be copied: it grows by what the guest writes anew."""
    written: dict[str, int]
    """By the guest, to each disk."""

    def outruns(self, before: "_Counts") -> bool:
        """Since then as much was written anew as was copied. A copy that stands still is not outrun; and a guest that
        is caught up with writes as much as is copied.
        """
        copied, anew = self.copied - before.copied, self.total - before.total
        far = self.total - self.copied > FAR_S * copied / (self.at - before.at)
        return copied > 0 and anew >= LOSING * copied and far


class Slowdown:
    """How slowly a guest writes in one wait for its mirrors."""

    def __init__(self, ctx: Context, monitor: Monitor) -> None:
        self.ctx, self.monitor = ctx, monitor
        self.record = ctx.directory.slowed.read() or SlowedWrites()
        self.begun: _Counts | None = None
        """Where the present period of judgement began."""
        self.behind_since: float | None = None
        self.looked = False

    @property
    def per_s(self) -> int:
        """What it may write to each disk, in bytes per second; 0: it is not slowed."""
        return self.record.per_s if self.record.drives else 0

    async def look(self, states: Mapping[str, Mirror]) -> None:
        """Slow it if it has outrun its mirrors for a while; let go while the job is held in sync."""
        if not self.looked:
            self.looked = True
            await limits.set_slowed(self.monitor, self.record.drives)  # a worker may have died before it did
        if self.ctx.job.held and mirrors.all_in_sync(self.ctx, states):
            await self._let_go()
        elif self.record.per_s and not self.per_s:
            await self._slow(self.record.per_s)  # it was released
        elif Measure.SLOW_WRITES in self.ctx.job.options.ladder:
            await self._judge(states)

    async def _judge(self, states: Mapping[str, Mirror]) -> None:
        """By all of a period: from one second to the next the rates of a limited copy go up and down."""
        now = await self._counted(states)
        if self.begun is None or now.copied < self.begun.copied:  # or a mirror began anew
            self.begun = now
        elif now.at - self.begun.at >= STUCK_S:
            before, self.begun = self.begun, now
            if now.outruns(before):
                await self._slower(before, now)

    async def _counted(self, states: Mapping[str, Mirror]) -> "_Counts":
        qdevs = {disk.qdev for disk in self.ctx.source.disks}
        stats = await self.monitor.query("query-blockstats")
        return _Counts(
            at=time.monotonic(),
            copied=sum(mirror.copied_bytes for mirror in states.values()),
            total=sum(mirror.total_bytes for mirror in states.values()),
            written={one["qdev"]: one["stats"]["wr_bytes"] for one in stats if one.get("qdev") in qdevs},
        )

    async def _slower(self, before: "_Counts", now: "_Counts") -> None:
        seconds = now.at - before.at
        most_per_s = max((now.written[qdev] - before.written.get(qdev, 0) for qdev in now.written), default=0) / seconds
        floor = self.ctx.job.options.slowest_writes_bytes_per_s
        wanted = max(int(PART * min(most_per_s, self.per_s or most_per_s)), floor)
        if self.per_s and wanted >= self.per_s:
            return  # it is as slow as it may be: the job's wait reason has the rest
        await self._slow(wanted)
        copied, anew = (now.copied - before.copied) / seconds, (now.total - before.total) / seconds
        self.ctx.tell(
            ACTIONS[Measure.SLOW_WRITES],
            f"{self.ctx.job.guest} writes {words.rate(anew)} anew, and {words.rate(copied)} of its disks are copied: "
            f"it may write {words.rate(wanted)} to each of them until it is moved",
        )

    async def _slow(self, per_s: int) -> None:
        qdevs = {disk.qdev for disk in self.ctx.source.disks}
        found = await limits.slow_writes(self.monitor, qdevs, per_s, self.record.drives)
        self._write(SlowedWrites(per_s=per_s, drives=dict(found)))
        await limits.set_slowed(self.monitor, found)

    async def _let_go(self) -> None:
        if self.per_s:
            await limits.give_back(self.monitor, self.record.drives)
            self._write(SlowedWrites(per_s=self.record.per_s))
            self.ctx.tell(
                ACTIONS[Measure.SLOW_WRITES], f"{self.ctx.job.guest} writes as it likes while the job is held"
            )

    def caught_up(self, states: Mapping[str, Mirror], pace: Pace | None, *, ready: bool) -> bool:
        """The disks of a guest that was slowed lack hardly anything. Its RAM, for which all else is ready, has to wait
        for that.
        """
        copied_per_s = pace.copied_per_s if pace is not None else 0.0
        near = bool(self.per_s) and _left(states) <= LEFT_S * max(copied_per_s, self.per_s)
        if not ready or not self.record.per_s or near:
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = time.monotonic()
        return self.behind_since is None

    def behind(self) -> str | None:
        """That it has waited for that for a while, as a sentence."""
        at = time.monotonic()
        if self.behind_since is None or at - self.behind_since < BEHIND_S:
            return None
        return (
            f"{self.ctx.job.guest} may write {words.rate(self.per_s)} to each disk, and that is faster than they are "
            f"copied: `drover job set {self.ctx.job.id} --bandwidth 0` lifts what was asked for the copy, `drover job "
            f"cancel {self.ctx.job.id}` ends the move"
        )

    def _write(self, record: SlowedWrites) -> None:
        self.record = record
        self.ctx.guard()
        self.ctx.directory.slowed.write(record)


def _left(states: Mapping[str, Mirror]) -> int:
    return sum(mirror.total_bytes - mirror.copied_bytes for mirror in states.values())


def slowed(ctx: Context) -> dict[str, SlowedDrive]:
    """The drives that are slowed, by their names."""
    record = ctx.directory.slowed.read()
    return record.drives if record is not None else {}


async def give_back(ctx: Context, monitor: Monitor) -> None:
    """The guest stays: its drives have their own limits again."""
    await limits.give_back(monitor, slowed(ctx))
    ctx.directory.slowed.remove()
