"""Step 3: every disk of the guest is mirrored to the destination, while the guest runs."""

import asyncio

from models.errors import Transient
from models.job import Side
from workers import mirrors
from workers.qemu import block
from workers.qemu.monitor import CommandRefused, Monitor
from workers.step import Context, Step


class MirrorDisks(Step):
    """One mirror per disk, under the host's bandwidth budget, to the exporter that the job's record names."""

    name, side, attempts = "mirror_disks", Side.SOURCE, 5

    async def verify(self, ctx: Context) -> bool:
        async with ctx.guest() as monitor:
            return all([await mirrors.is_ours(ctx, monitor, disk.index) for disk in ctx.job.disks])

    async def do(self, ctx: Context) -> None:
        async with ctx.guest() as monitor:
            for disk in ctx.job.disks:
                if not await mirrors.is_ours(ctx, monitor, disk.index):
                    async with mirrors.unblocked(ctx, monitor):
                        await self._begin(ctx, monitor, disk.index)
            await mirrors.share_bandwidth(ctx, monitor)

    async def _begin(self, ctx: Context, monitor: Monitor, index: int) -> None:
        name, planned = mirrors.name(ctx.job.id, index), ctx.job.plan["disks"][index]
        others_follow = index != ctx.job.disks[-1].index
        await block.drop_mirrors(monitor, [name])  # one to an earlier exporter, or half begun
        try:
            await block.start_mirror(
                monitor,
                name,
                planned["device"],
                mirrors.server(ctx, index),
                planned["discard"],
                bytes_per_s=block.CRAWL if others_follow else await asyncio.to_thread(mirrors.share, ctx),
            )
        except CommandRefused as error:  # no way to the exporter, or it died: the destination must look
            raise Transient(str(error), restart_from="start_nbd") from error

    async def undo(self, ctx: Context) -> None:
        if ctx.source_alive:
            async with ctx.guest() as monitor:
                await block.drop_mirrors(monitor, mirrors.names(ctx))
        ctx.directory.remove()
