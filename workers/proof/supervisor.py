"""At the destination: the process that answers, see `workers.proof.answering`."""

import sys

from drover import logs
from workers.guest import incoming_qemu
from workers.process import processes
from workers.process.processes import Process
from workers.proof.answering import Parameters
from workers.proof.reading import IN_NOBODYS_WAY
from workers.qemu import own_export, written
from workers.qemu.monitor import MonitorLost
from workers.step import Context
from workers.streams import local
from workers.streams.parameters import PROOF

ROLE = "proof"
"""The name under which it is found again."""


def running(ctx: Context) -> Process | None:
    """The process that answers for this job here, if it lives."""
    return processes.one(ctx.directory.mark(ROLE))


async def start(ctx: Context) -> None:
    """End a former one, and start it."""
    await stop(ctx)
    recorded = ctx.directory.recorded_nodes.read()
    with local.listen(ctx.directory.socket(PROOF)) as listening:
        parameters = Parameters(
            listening=listening.fileno(),
            qmp=ctx.destination.qmp,
            bitmap=written.name(ctx.job.id, ctx.served_at.nonce),
            nodes=recorded.nodes if recorded is not None else {},
            socket=str(ctx.directory.path / "own.nbd"),
            mine=str(ctx.directory.path / "own-export"),
        )
        path = ctx.directory.path / "proof.json"
        parameters.save(path)
        processes.spawn(
            ctx.directory.mark(ROLE),
            [*IN_NOBODYS_WAY, sys.executable, "-m", "workers.proof", str(path)],
            ctx.directory.log(ROLE),
            pass_fds=[listening.fileno()],
            environment=logs.handed_on(step="compare_images"),
        )


async def stop(ctx: Context) -> None:
    """End it, and take away what it left in the guest's QEMU. If there is none, nothing happens."""
    ctx.guard()
    await processes.end_all(ctx.directory.mark(ROLE))  # it can be killed at any instant
    ctx.directory.socket(PROOF).unlink(missing_ok=True)
    mine = ctx.directory.path / "own-export"
    if not mine.exists():
        return
    try:
        async with ctx.guest() as monitor:
            await own_export.end(monitor, mine)
    except MonitorLost:
        if incoming_qemu.running(ctx) is not None:
            raise
