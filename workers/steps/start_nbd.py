"""Step 2: the destination offers its images over NBD, and proves that the guest can start there."""

import secrets

from models.documents import NbdServer
from models.job import Side
from workers import incoming_qemu, nbd_server
from workers.step import Context, StepHandler
from workers.switchover import supervisor


class StartNbd(StepHandler):
    """An NBD server serves all images under unguessable names; the same machine as the source's waits beside it."""

    name, side = "start_nbd", Side.DESTINATION

    async def verify(self, ctx: Context) -> bool:
        return await nbd_server.serves(ctx) and await incoming_qemu.waits(ctx)

    async def do(self, ctx: Context) -> None:
        supervisor.prepare(ctx)  # here it delays nothing; a quick copy ends before one started later would be ready
        qemu = (
            None if await incoming_qemu.waits(ctx) else await incoming_qemu.spawn(ctx)
        )  # it starts while the NBD server does
        if not await nbd_server.serves(ctx):
            await self._start_nbd_server(ctx)
        if qemu is not None:
            await incoming_qemu.ready(ctx, qemu)

    async def _start_nbd_server(self, ctx: Context) -> None:
        await nbd_server.stop(ctx)
        nonce = secrets.token_hex(12)
        with nbd_server.bind(ctx) as listening:
            address, port = listening.getsockname()[:2]
            ctx.note(nbd_server=NbdServer(nonce=nonce, address=address, port=port))
            await nbd_server.start(ctx, listening, nonce)

    async def rollback(self, ctx: Context) -> None:
        await supervisor.kill_all(ctx)
        await incoming_qemu.stop(ctx)
        await nbd_server.stop(ctx)
