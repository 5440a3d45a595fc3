"""Step 4: wait until both sides of every mirror are equal and the guest runs, and keep them so while the job is held.

What can be healed is healed all that time.
"""

import asyncio
import time
from datetime import timedelta

from drover import words
from drover.errors import Fatal
from models.database import transaction
from models.fleet import limits
from models.job import Side
from workers import hooks
from workers.disks import held_up, mirrors, nbd_server, pace, slow_writes
from workers.guest import readiness
from workers.hooks import Point
from workers.qemu import block
from workers.qemu.block import Mirror
from workers.qemu.monitor import Monitor
from workers.step import Context, StepHandler
from workers.storage.low import Low
from workers.streams import supervisor as streams
from workers.switchover import supervisor
from workflows.migration.links import BeginAnew, Restart

POLL_S = 1.2
"""QEMU reports most changes by events; each poll takes time of the main loop from the guest's own requests. A budget or
limit that is changed is obeyed after this long at the latest."""
EVENTS = ("BLOCK_JOB_READY", "BLOCK_JOB_ERROR", "BLOCK_JOB_COMPLETED", "STOP", "RESUME")
HEAL_S = 60.0
"""How long a mirror that stopped with an error is resumed repeatedly before the copy is begun anew.

A cut link to the same NBD server heals without a new copy; QEMU retries after up to 16 s of its own."""

SILENCE_S = 5.0
"""After a copy has not moved for this long, its NBD server is checked for being reachable."""


class AwaitSync(StepHandler):
    """All mirrors are ready, and the guest runs. Lasts as long as the copy does."""

    name, side, attempts = "await_sync", Side.SOURCE, 5

    async def verify(self, ctx: Context) -> bool:
        async with ctx.guest() as monitor:
            in_sync = mirrors.all_in_sync(ctx, await block.mirrors(monitor, mirrors.names(ctx)))
            obstacle = await readiness.obstacle(ctx, monitor)
        done = all(disk.ready_at for disk in ctx.job.disks) and hooks.finished(ctx, Point.BEFORE_SWITCHOVER)
        return in_sync and obstacle is None and not ctx.job.held and done

    async def do(self, ctx: Context) -> None:
        if ctx.served_at.sealed is not None:  # else a copy goes on that Drover 0.1 began
            await streams.connect(ctx)
        supervisor.prepare(ctx)  # a quick copy is over before one that is started afterwards could begin
        async with ctx.guest() as monitor:
            await _Watch(ctx, monitor).until_in_sync()
        await hooks.run(ctx, Point.BEFORE_SWITCHOVER)  # here, because the destination waits for no source's hooks
        supervisor.prepare(ctx)  # after a long copy the first one has ended

    async def rollback(self, ctx: Context) -> None:
        await supervisor.kill_all(ctx)
        if slow_writes.slowed(ctx) and ctx.held is not None and ctx.source_alive:
            async with ctx.guest() as monitor:
                await slow_writes.give_back(ctx, monitor)


class _Watch:
    """One wait: what was recorded when, and since when a mirror is stopped."""

    def __init__(self, ctx: Context, monitor: Monitor) -> None:
        self.ctx, self.monitor = ctx, monitor
        self.recording = pace.Recording(POLL_S)
        self.heal_until: float | None = None
        self.moved_at, self.moved_bytes = time.monotonic(), -1
        self.room = _Room()
        self.bandwidth = mirrors.Bandwidth(ctx, monitor)
        self.meter = pace.Meter()
        self.slowdown = slow_writes.Slowdown(ctx, monitor)
        self.low = Low(ctx)
        self.remarks = held_up.Remarks(ctx)
        self.seen: dict[str, mirrors.Passed] = {}

    async def until_in_sync(self) -> None:
        self.seen |= await asyncio.to_thread(mirrors.just_begun, self.ctx)
        events = self.monitor.listen(*EVENTS)
        while True:
            async with mirrors.unblocked(self.ctx, self.monitor):
                states = await block.mirrors(self.monitor, mirrors.names(self.ctx))
            _raise_if_ended(self.ctx, states)
            ready = mirrors.all_in_sync(self.ctx, states) and not self.ctx.job.held
            caught_up = self.slowdown.caught_up(states, self.ctx.job.pace, ready=ready)
            obstacle = self.lacks_room(states) or await readiness.obstacle(self.ctx, self.monitor)
            obstacle = obstacle or self.slowdown.behind()
            await asyncio.to_thread(self.remarks.tell, obstacle, await asyncio.to_thread(self.low.sentence))
            in_sync = ready and caught_up and obstacle is None
            await self.record_progress(states, at_once=in_sync)
            if in_sync and all(disk.ready_at for disk in self.ctx.job.disks):
                return
            await self.give_up_on_silence(states)
            if await self.heal(states):
                continue  # it has waited
            try:
                async with asyncio.timeout(self.recording.left_s):
                    await events.get()
            except TimeoutError:
                pass

    def lacks_room(self, states: dict[str, Mirror]) -> str | None:
        lacking, job = self.room.lacking(states), self.ctx.job
        full = [disk.destination_path for disk in job.disks if mirrors.name(job.id, disk.index) in lacking]
        return held_up.no_room(job, full) if full else None

    async def record_progress(self, states: dict[str, Mirror], *, at_once: bool) -> None:
        if not self.recording.due() and not at_once:
            return
        await self.bandwidth.share(states)
        found = self.meter.pace(states, self.bandwidth.limit_per_s)
        await self.slowdown.look(states)
        self.ctx.job.pace = found.model_copy(
            update={
                "slowed_per_s": self.slowdown.per_s,
                "copied_under_per_s": self.bandwidth.copied_under_per_s,
            }
        )
        await asyncio.to_thread(mirrors.record, self.ctx, states, self.seen, dict(self.bandwidth.given))
        total = sum(mirror.total_bytes for mirror in states.values())
        self.ctx.announce(100 * sum(mirror.copied_bytes for mirror in states.values()) // max(total, 1))

    async def give_up_on_silence(self, states: dict[str, Mirror]) -> None:
        """A link that drops packets causes no error for a quarter of an hour, by TCP's own timeout.

        If a copy does not move, its NBD server is contacted; while that can be reached the copy is only slow.
        """
        moved = sum(mirror.copied_bytes for mirror in states.values())
        still_s = time.monotonic() - self.moved_at
        if moved != self.moved_bytes:
            self.moved_at, self.moved_bytes = time.monotonic(), moved
        elif still_s <= SILENCE_S:
            return
        elif await asyncio.to_thread(nbd_server.reachable, self.ctx):
            self.moved_at = time.monotonic()
        elif still_s > (await asyncio.to_thread(_host_patience)).total_seconds():
            unreachable = f"{self.ctx.job.destination} could not be reached by {self.ctx.job.source}"
            raise Fatal(f"{unreachable} for {words.about(still_s)}")

    async def heal(self, states: dict[str, Mirror]) -> bool:
        """Have mirrors that stopped go on, and wait a moment; false: none did."""
        broken = [name for name, mirror in states.items() if not mirror.healthy]
        if not broken or self.room.stood_at:
            self.heal_until = None
        if not broken:
            return False
        self.heal_until = self.heal_until or time.monotonic() + HEAL_S
        if time.monotonic() > self.heal_until:
            raise BeginAnew(f"the destination's images could not be written for {HEAL_S:g} s", Restart.NBD_SERVER)
        if nbd_server.refuses(self.ctx):
            raise BeginAnew("the NBD server is gone: the copy begins anew", Restart.NBD_SERVER)
        for name in broken:
            await block.resume_mirror(self.monitor, name)
        await asyncio.sleep(self.recording.left_s)
        return True


class _Room:
    """Which mirrors are stopped because the destination's file system is full, until they were seen to go on.

    One that is resumed looks healthy until its next write fails, so only what was copied since shows that it goes on.
    """

    def __init__(self) -> None:
        self.stood_at: dict[str, int] = {}

    def lacking(self, states: dict[str, Mirror]) -> set[str]:
        for name, mirror in states.items():
            if mirror.no_room:
                self.stood_at[name] = mirror.copied_bytes
            elif mirror.copied_bytes > self.stood_at.get(name, mirror.copied_bytes):
                del self.stood_at[name]
        return set(self.stood_at)


def _raise_if_ended(ctx: Context, states: dict[str, Mirror]) -> None:
    ended = [f"{name}: {mirror.error}" for name, mirror in states.items() if mirror.concluded]
    if ended or len(states) < len(ctx.job.disks):
        raise BeginAnew("a mirror ended before its time, the copy begins anew: " + "; ".join(ended), Restart.MIRRORS)


def _host_patience() -> timedelta:
    with transaction() as session:
        return limits(session).host_patience
