"""Step 6: both hosts agree on who owns the guest now, and its record names that host.

By now the source has handed the guest over (`migrate_ram` ends with `run` in its journal), so this only goes forward.
Usually the switchover processes have done everything and there is only the outcome to record; if one of them
died, the destination's link resumes the guest.
"""

import asyncio
import logging
import time

from drover.errors import Fatal, NeverRan, StepError, Transient, Unknown
from models.database import transaction
from models.documents import Downtime, RamProgress, renamed
from models.guest import Guest
from models.job import Side
from workers import files
from workers.disks import mirrors, nbd_server
from workers.guest import given_back, incoming_qemu
from workers.guest.run_marker import SET_CONTENT
from workers.images import retention
from workers.launcher import keep_out, units
from workers.process import processes
from workers.process.processes import Process
from workers.qemu import migration
from workers.qemu.monitor import Monitor, MonitorLost
from workers.step import Context, StepHandler
from workers.switchover import supervisor, trace
from workflows.migration.run_states import WENT_ON

log = logging.getLogger(__name__)


class CutoverSource(StepHandler):
    """The guest is stopped at the source for good."""

    name, side = "cutover", Side.SOURCE

    async def verify(self, ctx: Context) -> bool:
        return ctx.job.downtime is not None and await self._stands_still(ctx)

    async def do(self, ctx: Context) -> None:
        if not await self._stands_still(ctx):
            raise Unknown(
                f"{ctx.job.guest} runs on {ctx.job.source} although it was handed over to {ctx.job.destination}: end "
                f"its QEMU where it is not to live, then `drover job resolve {ctx.job.id} --owner source` or "
                f"`drover job resolve {ctx.job.id} --owner destination`"
            )
        told = supervisor.committed(ctx)
        resumed = (told and told.last("resumed")) or {}
        resumed = renamed("blackout_ms", "downtime_ms", resumed)  # as a process of Drover 0.1 calls it
        learnt = {"ram": RamProgress.read(resumed["ram"])} if "ram" in resumed else {}
        downtime = Downtime.read({"ms": resumed.get("downtime_ms"), **resumed})
        mirrors.record_equal(ctx)
        await asyncio.to_thread(_keep_launcher_out, ctx)
        ctx.note(downtime=downtime, **learnt)
        trace.record(ctx.job.traceparent, resumed)
        log.info(
            "the guest was handed over, and stood still for %s ms", downtime.ms, extra={"downtime_ms": downtime.ms}
        )

    async def rollback(self, ctx: Context) -> None:
        """It goes on here although it was stopped for good."""
        if ctx.job.kept_by_source:
            await asyncio.to_thread(retention.put_back, ctx)
            await asyncio.to_thread(units.come_back, ctx)

    async def _stands_still(self, ctx: Context) -> bool:
        if not ctx.source_alive:
            return True
        async with ctx.guest() as monitor:
            return bool((await monitor.query("query-status"))["status"] != "running")


def _keep_launcher_out(ctx: Context) -> None:
    """At once: until `cleanup` its QEMU may die, or this host may boot, and its launcher would find its images."""
    launcher = ctx.source.launcher
    if launcher is None or not keep_out.is_needed(ctx, launcher) or not supervisor.let_go(ctx):
        return
    try:
        retention.move_away(ctx, (disk for disk in ctx.disks if not disk.source_device))
        keep_out.put(ctx, launcher)
    except (Fatal, OSError) as error:  # nothing holds up the guest's record; `cleanup` stops with it
        log.warning("what started %s may find its images on this host: %s", ctx.job.guest, error)


class CutoverDestination(StepHandler):
    """The guest runs on the destination and the guest's record names that host."""

    name, side = "cutover", Side.DESTINATION

    async def verify(self, ctx: Context) -> bool:
        with transaction() as session:
            recorded = session.get_one(Guest, ctx.job.guest).host == ctx.job.destination
        return recorded and ctx.directory.may_run_here and units.settled(ctx)

    async def do(self, ctx: Context) -> None:
        await self._let_switch_finish(ctx)
        try:
            async with ctx.guest() as monitor:
                await self._let_run(ctx, monitor)
                qemu = processes.process(monitor.pid)
        except MonitorLost as error:
            if incoming_qemu.running(ctx) is not None:
                raise
            raise await asyncio.to_thread(_died, ctx) from error
        await asyncio.to_thread(_settle, ctx, qemu)

    async def _let_switch_finish(self, ctx: Context) -> None:
        """It holds the monitor until the guest is announced. One that is dead or frozen is not waited for."""
        deadline = time.monotonic() + 5
        process = supervisor.running(ctx, ctx.attempt.attempt)
        while process is not None and process.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await supervisor.kill_all(ctx)

    async def _let_run(self, ctx: Context, monitor: Monitor) -> None:
        status = (await monitor.query("query-status"))["status"]
        if status in WENT_ON:
            return
        if status not in migration.STANDS_STILL:
            raise Transient(f"the QEMU on {ctx.job.destination} is {status}")  # it ends when its stream broke
        await self._release_images(ctx)
        await migration.loaded(monitor)
        ctx.guard()
        files.write_durably(ctx.directory.marker, SET_CONTENT.decode())
        await migration.resume(monitor)

    async def _release_images(self, ctx: Context) -> None:
        """An NBD server that still has the images open would make `cont` fail."""
        if nbd_server.running(ctx) is not None:
            await nbd_server.stop(ctx)

    async def rollback(self, ctx: Context) -> None:
        """The source goes on although the guest ran here: an operator has said so. Nothing starts it here any more.

        Raises:
            Fatal: it runs here.
        """
        if given_back.is_to_be(ctx):
            await supervisor.kill_all(ctx)
            await nbd_server.stop(ctx)
            await asyncio.to_thread(given_back.let_nothing_start_it, ctx)


def _died(ctx: Context) -> StepError:
    """Its QEMU is dead here; whether it ever ran decides who owns the guest. If so it is to be started here alone."""
    job = ctx.job
    if not ctx.directory.may_run_here:
        return NeverRan(f"{job.guest}'s QEMU on {job.destination} died before it was told to run")
    _settle(ctx, None)
    return Unknown(
        f"{job.guest} was handed over to {job.destination} and its QEMU died there: start it cold from the images on "
        f"{job.destination} (those on {job.source} are stale), by `drover job resolve {job.id} --owner destination`, "
        f"then `drover guest start {job.guest}`"
    )


def _settle(ctx: Context, qemu: Process | None) -> None:
    """It is on record that it runs here, and from now on it may be started here."""
    identity = processes.identity(qemu) if qemu else None
    launcher = units.now(ctx, qemu)
    with ctx.record() as (session, job, _step):
        session.get_one(Guest, job.guest).lives_on(job.destination, ctx.destination.qmp, identity, launcher)
    units.settle(ctx)
