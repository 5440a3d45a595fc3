"""Step 2: the destination offers its images over NBD, and proves that the guest can start there."""

import secrets

from models.job import Side
from workers import exporter, incoming, switches
from workers.step import Context, Step


class StartNbd(Step):
    """An exporter serves all images under unguessable names; the same machine as the source's waits beside it."""

    name, side = "start_nbd", Side.DESTINATION

    async def verify(self, ctx: Context) -> bool:
        return await exporter.serves(ctx) and await incoming.waits(ctx)

    async def do(self, ctx: Context) -> None:
        switches.prepare(ctx)  # here it costs nobody time; a quick copy is over before another would have started
        qemu = None if await incoming.waits(ctx) else await incoming.spawn(ctx)  # it starts while the exporter does
        if not await exporter.serves(ctx):
            await self._start_exporter(ctx)
        if qemu is not None:
            await incoming.ready(ctx, qemu)

    async def _start_exporter(self, ctx: Context) -> None:
        await exporter.stop(ctx)
        nonce = secrets.token_hex(12)
        with exporter.bind(ctx) as listening:
            address, port = listening.getsockname()[:2]
            ctx.note(exporter={"nonce": nonce, "address": address, "port": port})
            await exporter.start(ctx, listening, nonce)

    async def undo(self, ctx: Context) -> None:
        await switches.kill_all(ctx)
        await incoming.stop(ctx)
        await exporter.stop(ctx)
