"""Step 7: nothing of the job is left but the guest, and its old images for as long as they are kept."""

import asyncio

from drover.errors import Fatal
from models.database import transaction
from models.guest import Guest
from models.job import Side
from models.launcher import Launcher
from models.plain import Evidence
from workers import hooks
from workers.disks import nbd_server
from workers.guest import run_files
from workers.hooks import Point
from workers.images import retention, way_back
from workers.launcher import inhibitor, keep_out, units
from workers.process import tpm
from workers.proof import reading
from workers.proof import supervisor as proof
from workers.qemu import permissions, written
from workers.qemu.monitor import MonitorLost
from workers.step import Context, StepHandler
from workers.streams import supervisor as streams
from workers.switchover import supervisor


class CleanupSource(StepHandler):
    """The former QEMU is gone and its images are set aside."""

    name, side, attempts = "cleanup", Side.SOURCE, 10

    async def verify(self, ctx: Context) -> bool:
        return not ctx.source_alive and retention.complete(ctx) and not ctx.directory.path.exists()

    async def do(self, ctx: Context) -> None:
        await asyncio.to_thread(self._begin, ctx)
        launcher = await inhibitor.inhibit(ctx, whatever_it_is=True)  # of a job that was begun by an earlier version
        await asyncio.to_thread(self._set_aside, ctx)
        if launcher is not None:
            await self._end_qemu(ctx, launcher)
        await self._end_tpm(ctx)
        await asyncio.to_thread(self._clear_away, ctx)
        await supervisor.kill_all(ctx)
        await reading.stop(ctx)
        await streams.stop(ctx)
        await hooks.run(ctx, Point.AFTER_CLEANUP)
        ctx.directory.remove()

    def _begin(self, ctx: Context) -> None:
        self._owned_elsewhere(ctx)
        self._let_go(ctx)
        retention.write_down(ctx)  # of a job that was begun by an earlier version

    def _owned_elsewhere(self, ctx: Context) -> None:
        """Never end a QEMU that might still be the guest."""
        with transaction() as session:
            if session.get_one(Guest, ctx.job.guest).host != ctx.job.destination:
                raise Fatal(f"{ctx.job.guest} is not known to live on {ctx.job.destination}")

    def _let_go(self, ctx: Context) -> None:
        """The rows alone are no reason to end a guest or to take its images away."""
        if (ctx.source_alive or retention.left(ctx)) and not supervisor.let_go(ctx):
            raise Fatal(
                f"nothing on {ctx.job.source} says that it let {ctx.job.guest} go, and nothing was touched there: if "
                f"the guest runs on {ctx.job.destination}, end its QEMU on {ctx.job.source} (pid {ctx.source.pid}) and "
                f"move its images away, then `drover job retry {ctx.job.id}`"
            )

    def _set_aside(self, ctx: Context) -> None:
        """Before its QEMU ends: what is started anew in its place must find neither launch file nor images."""
        units.leave(ctx)
        retention.set_aside(ctx)

    async def _end_qemu(self, ctx: Context, launcher: Launcher) -> None:
        await asyncio.to_thread(_hold_back, ctx, launcher)
        try:
            async with ctx.guest() as monitor:
                await monitor.execute("quit", timeout_s=10)
        except MonitorLost:
            pass  # it may hang up before it answers
        if not await ctx.source_process.ended(10):
            await ctx.source_process.end()

    async def _end_tpm(self, ctx: Context) -> None:
        if ctx.source.tpm is not None:
            ctx.guard()
            await tpm.end(ctx.source.tpm)
            await asyncio.to_thread(retention.set_more_aside, ctx, tpm.states(ctx.source.tpm))

    def _clear_away(self, ctx: Context) -> None:
        """After its QEMU and its TPM."""
        _write_way_back_down(ctx)
        _set_written_aside(ctx)
        inhibitor.end_scripts(ctx)
        units.left(ctx)
        run_files.unlink_dead(ctx.settings, [ctx.source.qmp], ctx.source.pidfile)


def _hold_back(ctx: Context, launcher: Launcher) -> None:
    """What launched the guest starts none as its QEMU ends."""
    if keep_out.is_needed(ctx, launcher):  # of a job that was begun by an earlier version
        keep_out.put(ctx, launcher)
    inhibitor.halt_scripts(ctx, launcher)


def _set_written_aside(ctx: Context) -> None:
    """Its memory and the like would be in the way of the guest's return."""
    made = [*permissions.written(ctx.source.argv)]
    ctx.guard()
    run_files.unlink_memory(made)
    retention.set_more_aside(ctx, run_files.left_over(made))


def _write_way_back_down(ctx: Context) -> None:
    """Where the switchover process has seen what its images were then."""
    told = supervisor.committed(ctx)
    line = told and told.last("left")
    if line:
        left = {path: Evidence(**seen) for path, seen in line["images"].items()}
        way_back.write_down(ctx, written.name(ctx.job.id, ctx.served_at.nonce), left)


class CleanupDestination(StepHandler):
    """NBD server, switchover process and the job's directory are gone; the images belong to the guest now."""

    name, side, attempts = "cleanup", Side.DESTINATION, 10

    async def verify(self, ctx: Context) -> bool:
        return nbd_server.running(ctx) is None and not ctx.directory.path.exists()

    async def do(self, ctx: Context) -> None:
        await nbd_server.stop(ctx)
        await proof.stop(ctx)
        await supervisor.kill_all(ctx)
        await streams.stop(ctx)
        await hooks.run(ctx, Point.AFTER_CLEANUP)
        ctx.directory.remove()
