"""The incoming QEMU: the guest's future process on the destination, stopped and waiting for its RAM."""

import asyncio
from pathlib import Path

from drover.errors import Fatal, Transient
from drover.settings import Settings
from models.plan import DestinationPlan, Topology
from workers.guest import run_files
from workers.guest.qmp_ready import monitor_ready
from workers.launcher import units
from workers.preflight import inspection
from workers.process import processes
from workers.process.processes import Process
from workers.qemu import cpu, permissions, topology
from workers.qemu.command_line import listening_sockets
from workers.qemu.monitor import MonitorLost, connect
from workers.step import Context


def running(ctx: Context) -> Process | None:
    """The process that this job started, in whatever state it is."""
    return processes.one(ctx.directory.mark("incoming"))


async def waits(ctx: Context) -> bool:
    """It lives and no RAM was sent to it yet: a QEMU takes only one incoming migration in its life.

    Raises:
        Fatal: the machine it makes differs from the source's. QEMU itself notices only a part, in the pause.
    """
    if running(ctx) is None:
        return False
    try:
        async with connect(ctx.destination.qmp) as monitor:
            migrate = (await monitor.query("query-migrate")).get("status", "none")
            if (await monitor.query("query-status"))["status"] != "inmigrate" or migrate != "none":
                return False
            found = differences(ctx, await inspection.machine(monitor))
    except MonitorLost:
        return False
    if found:
        raise Fatal("the destination's machine differs from the source's: " + "; ".join(found))
    return True


async def start(ctx: Context) -> None:
    """Start a new one, and wait until it waits for RAM.

    Raises:
        Fatal: it does not start, or the machine it makes differs from the source's.
        Transient: it was gone at once.
    """
    await ready(ctx, await spawn(ctx))
    if not await waits(ctx):
        raise Transient("the destination's QEMU ended as soon as it had started")


async def spawn(ctx: Context) -> Process:
    """Begin to start a new one: an early proof that this guest can run here.

    Raises:
        Fatal: the guest may run in the one that is there, or its images are not those that the job made.
    """
    await stop(ctx)
    ctx.only_own_images()
    return await asyncio.to_thread(units.start_incoming, ctx, _log(ctx))


async def ready(ctx: Context, started: Process) -> None:
    """Until it answers.

    Raises:
        Fatal: it does not start.
    """
    try:
        await monitor_ready(started, ctx.destination.qmp, _log(ctx))
    except Fatal as error:
        raise Fatal(f"the destination's QEMU does not start: {error}") from error


def _log(ctx: Context) -> Path:
    return ctx.directory.incoming_log(ctx.job.guest)


def unlink_dead(destination: DestinationPlan, settings: Settings) -> None:
    """Remove the sockets and the pidfile that a killed QEMU left behind; what a living one serves stays."""
    run_files.unlink_dead(settings, listening_sockets(destination.argv), destination.pidfile)


def differences(ctx: Context, there: Topology) -> list[str]:
    """What the two machines do not have in common."""
    here = ctx.source.topology
    same = ctx.source.qemu_version == ctx.destination.qemu_version
    return topology.differences_of(here, there, same_version=same) + cpu.missing(here.cpu, there.cpu)


async def stop(ctx: Context) -> None:
    """End it, unless it may be the guest itself by now. If it does not exist, nothing happens.

    Raises:
        Fatal: the guest may run in it.
    """
    if ctx.directory.may_run_here:
        raise Fatal("the guest may be running on the destination already")
    ctx.guard()
    process = running(ctx)
    if process is not None:
        await process.end_now()  # it holds nothing that needs an orderly end
    if ctx.held is not None:  # else none was ever started
        unlink_dead(ctx.destination, ctx.settings)
        run_files.unlink_left_over(permissions.written(ctx.destination.argv))
