"""Step 2: the destination offers its images over NBD, and proves that the guest can start there."""

import asyncio
import secrets

from models.job import Side
from workers.disks import nbd_server
from workers.guest import incoming_qemu
from workers.launcher import units
from workers.media import placing
from workers.process import tpm
from workers.step import Context, StepHandler
from workers.storage import making
from workers.streams import supervisor as streams
from workers.switchover import supervisor
from workflows.migration.links import BeginAnew, Restart


class StartNbd(StepHandler):
    """An NBD server serves all images under unguessable names; the same machine as the source's waits beside it."""

    name, side = "start_nbd", Side.DESTINATION

    async def verify(self, ctx: Context) -> bool:
        served = await self._serves(ctx) and streams.running(ctx) is not None
        return served and await incoming_qemu.waits(ctx)

    async def do(self, ctx: Context) -> None:
        await _files_are_there(ctx)
        await _make_encrypted(ctx)
        supervisor.prepare(ctx)  # here it delays nothing; a quick copy ends before one started later would be ready
        waits = await incoming_qemu.waits(ctx)
        qemu = None if waits else await incoming_qemu.spawn(ctx)  # it starts while the NBD server does
        if await self._serves(ctx):
            await streams.serve(ctx, ctx.served_at.nonce)
        else:
            await self._start_nbd_server(ctx)
        if qemu is not None:
            await incoming_qemu.ready(ctx, qemu)

    async def _serves(self, ctx: Context) -> bool:
        return nbd_server.takes_streams(ctx) and await nbd_server.serves(ctx)

    async def _start_nbd_server(self, ctx: Context) -> None:
        await nbd_server.stop(ctx)
        nonce = secrets.token_hex(12)
        await streams.serve(ctx, nonce)
        await nbd_server.start(ctx, nonce)

    async def rollback(self, ctx: Context) -> None:
        await supervisor.kill_all(ctx)
        await incoming_qemu.stop(ctx)
        if ctx.held is not None:
            await asyncio.to_thread(units.take_back, ctx)
            if ctx.destination.tpm is not None:
                ctx.guard()
                await tpm.take_back(ctx.destination.tpm)
        await nbd_server.close(ctx)  # whatever is sent to it no more: its images may be kept
        await nbd_server.stop(ctx)
        await streams.stop(ctx)


async def _make_encrypted(ctx: Context) -> None:
    """Only now are their keys there."""
    for disk in ctx.plan.disks:
        key = making.key(ctx.destination, disk)
        if key is not None and not await asyncio.to_thread(making.is_made, ctx.directory, disk):
            ctx.guard()
            await asyncio.to_thread(making.fill, disk, key)


async def _files_are_there(ctx: Context) -> None:
    """QEMU reads them when it is started."""
    if missing := await asyncio.to_thread(placing.missing, ctx):
        gone = ", ".join(ctx.destination.files[place].destination_path for place in missing)
        raise BeginAnew(f"{gone} is not there (any more): it is copied", Restart.FILES)
    await placing.stop(ctx)
    placing.drop_drafts(ctx.directory)
