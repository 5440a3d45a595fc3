"""Step 3: every disk of the guest is mirrored to the destination, while the guest runs."""

import asyncio
import time
from collections.abc import Sequence

from models.event_action import EventAction
from models.job import Side
from workers import hooks
from workers.disks import delta, kept_copy, mirrors
from workers.hooks import Point
from workers.images import retention
from workers.qemu import block, known_bugs, limits, target
from workers.qemu.monitor import CommandRefused, Monitor
from workers.step import Context, StepHandler
from workers.streams import supervisor as streams
from workflows.migration.links import BeginAnew, Restart

CAREFUL_S = 5.0
"""A try takes some hundredths of a second."""


class MirrorDisks(StepHandler):
    """One mirror per disk, under the host's bandwidth budget, to the NBD server that the job's record names."""

    name, side, attempts = "mirror_disks", Side.SOURCE, 5

    async def verify(self, ctx: Context) -> bool:
        async with ctx.guest() as monitor:
            return streams.connected(ctx) and not await mirrors.missing(ctx, monitor)

    async def do(self, ctx: Context) -> None:
        await hooks.run(ctx, Point.BEFORE_COPY)
        await streams.connect(ctx)
        await asyncio.to_thread(retention.write_down, ctx)
        async with ctx.guest() as monitor:
            await delta.withdraw(ctx, monitor)  # of a worker that died
            missing = await mirrors.missing(ctx, monitor)
            rate = await asyncio.to_thread(mirrors.share, ctx)  # at first; `await_sync` shares it out anew
            try:
                if await self._send_changes(ctx, monitor, missing):
                    return
                async with mirrors.unblocked(ctx, monitor):
                    await limits.step_aside(monitor)
                    await kept_copy.begin(ctx, monitor, missing)
                    await self._start(ctx, monitor, missing, rate)
            except CommandRefused as error:  # the NBD server cannot be reached, or it died: the destination must look
                raise BeginAnew(str(error), Restart.NBD_SERVER) from error

    async def _send_changes(self, ctx: Context, monitor: Monitor, missing: Sequence[int]) -> bool:
        """The guest goes back to images that it left behind, so it is enough to send what has changed since."""
        try:
            return await delta.send(ctx, monitor, missing)
        except delta.CannotTell as error:
            await asyncio.to_thread(delta.nothing_is_left_out, ctx, str(error))
        return False

    async def _start(self, ctx: Context, monitor: Monitor, missing: Sequence[int], rate: int) -> None:
        shallow = {index for index in missing if ctx.plan.disks[index].chain}
        careful = shallow if known_bugs.affects("B1", ctx.source.qemu_version) else set()
        begun = {index for index in sorted(careful) if await self._begin_carefully(ctx, monitor, index)}
        for index in set(missing) - begun:
            await self._connect(ctx, monitor, index)
        devices = {mirrors.name(ctx.job.id, index): ctx.plan.disks[index].device for index in set(missing) - begun}
        if devices:
            above = {mirrors.name(ctx.job.id, index) for index in shallow - careful}
            pieces = {mirrors.name(ctx.job.id, index): ctx.plan.disks[index].piece_bytes for index in missing}
            await block.start_mirrors(monitor, devices, shallow=above, pieces=pieces)
            await self._spare_holes(ctx, monitor, set(missing) - shallow)
        await block.set_speeds(monitor, {mirrors.name(ctx.job.id, index): rate for index in missing})

    async def _begin_carefully(self, ctx: Context, monitor: Monitor, index: int) -> bool:
        """Try until the guest wrote nothing while QEMU looked its disk through, for a while."""
        name, until = mirrors.name(ctx.job.id, index), time.monotonic() + CAREFUL_S
        while time.monotonic() < until:
            await self._connect(ctx, monitor, index)
            if await block.start_without_missing_a_write(monitor, name, ctx.plan.disks[index].device):
                return True
        sentence = (
            f"{ctx.plan.disks[index].source_path} is copied with all that its backing files hold: the guest writes "
            "all the time, and this QEMU may miss a write as it begins to copy the rest alone (mended in 10.0.10 and "
            "10.2.2)"
        )
        await asyncio.to_thread(ctx.tell, EventAction.WARNING, sentence)
        return False

    async def _connect(self, ctx: Context, monitor: Monitor, index: int) -> None:
        disk = ctx.plan.disks[index]
        await mirrors.connect(ctx, monitor, index, discard=disk.discard, piece_bytes=disk.piece_bytes)

    async def _spare_holes(self, ctx: Context, monitor: Monitor, begun: set[int]) -> None:
        if known_bugs.mirror_may_be_reopened(ctx.source.qemu_version):
            late = {mirrors.name(ctx.job.id, i): i for i in begun if ctx.plan.disks[i].discard == "ignore"}
            servers = {name: mirrors.server(ctx, index) for name, index in late.items()}
            disks = ctx.plan.disks
            zeroes = {name: mirrors.detect_zeroes(ctx, i, disks[i].piece_bytes) for name, i in late.items()}
            await target.spare_holes(monitor, servers, zeroes)

    async def rollback(self, ctx: Context) -> None:
        if ctx.held is not None and ctx.source_alive:
            async with ctx.guest() as monitor:
                await delta.withdraw(ctx, monitor)
                await kept_copy.keep(ctx, monitor)
                await block.drop_mirrors(monitor, mirrors.names(ctx))
                await limits.step_back(monitor)
        await streams.stop(ctx)
        await hooks.run(ctx, Point.AFTER_ROLLBACK)
        ctx.directory.remove()
