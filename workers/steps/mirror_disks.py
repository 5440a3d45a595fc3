"""Step 3: every disk of the guest is mirrored to the destination, while the guest runs."""

import asyncio

from models.job import Side
from workers import mirrors
from workers.images import retention
from workers.qemu import block, known_bugs, limits, target
from workers.qemu.monitor import CommandRefused, Monitor
from workers.step import Context, StepHandler
from workers.streams import supervisor as streams
from workflows.migration.chain import BeginAnew, Restart


class MirrorDisks(StepHandler):
    """One mirror per disk, under the host's bandwidth budget, to the NBD server that the job's record names."""

    name, side, attempts = "mirror_disks", Side.SOURCE, 5

    async def verify(self, ctx: Context) -> bool:
        async with ctx.guest() as monitor:
            return streams.connected(ctx) and not await mirrors.missing(ctx, monitor)

    async def do(self, ctx: Context) -> None:
        await streams.connect(ctx)
        await asyncio.to_thread(retention.write_down, ctx)
        async with ctx.guest() as monitor:
            missing = await mirrors.missing(ctx, monitor)
            rate = await asyncio.to_thread(mirrors.share, ctx)  # at first; `await_sync` shares it out anew
            try:
                async with mirrors.unblocked(ctx, monitor):
                    for index in missing:
                        await self._connect(ctx, monitor, index)
                    devices = {mirrors.name(ctx.job.id, i): ctx.plan.disks[i].device for i in missing}
                    await limits.step_aside(monitor)
                    await block.start_mirrors(monitor, devices)
                    await self._spare_holes(ctx, monitor, missing)
                    await block.set_speeds(monitor, dict.fromkeys(devices, rate))
            except CommandRefused as error:  # the NBD server cannot be reached, or it died: the destination must look
                raise BeginAnew(str(error), Restart.NBD_SERVER) from error

    async def _connect(self, ctx: Context, monitor: Monitor, index: int) -> None:
        name, discard = mirrors.name(ctx.job.id, index), ctx.plan.disks[index].discard
        await block.drop_mirrors(monitor, [name])  # one to an earlier NBD server, or half begun
        zeroes = mirrors.detect_zeroes(ctx, index)
        await target.connect(monitor, name, mirrors.server(ctx, index), discard=discard, zeroes=zeroes)

    async def _spare_holes(self, ctx: Context, monitor: Monitor, begun: list[int]) -> None:
        if known_bugs.mirror_may_be_reopened(ctx.source.qemu_version):
            late = {mirrors.name(ctx.job.id, i): i for i in begun if ctx.plan.disks[i].discard == "ignore"}
            servers = {name: mirrors.server(ctx, index) for name, index in late.items()}
            zeroes = {name: mirrors.detect_zeroes(ctx, index) for name, index in late.items()}
            await target.spare_holes(monitor, servers, zeroes)

    async def rollback(self, ctx: Context) -> None:
        if ctx.held is not None and ctx.source_alive:
            async with ctx.guest() as monitor:
                await block.drop_mirrors(monitor, mirrors.names(ctx))
                await limits.step_back(monitor)
        await streams.stop(ctx)
        ctx.directory.remove()
