"""Whether the guest can be moved as it is now: what it or its owner did during a move may end the move, or hold it up.

Only a running guest is moved, with the devices that it had at the preflight. So a reset changes nothing, a guest that
is paused or stopped is waited for, as is an image that was moved away, and a guest that is powered off, or has other
devices now, stays where it is.

What QEMU does (10.0.2): until the switchover everything is allowed but `block_resize` of a disk that is mirrored; from
`migrate` on devices can no longer be plugged or unplugged. A guest that stops while its RAM is sent is sent as it is,
and arrives as `paused` when its owner paused it, which looks like any guest that has just arrived; so the move is
abandoned (`workers.switchover.source`). Cancelling a migration restores the run state of before, whatever it was.
"""

import asyncio
from collections.abc import Sequence

from drover.errors import Fatal
from workers.preflight import open_images
from workers.process.processes import Process
from workers.qemu import block
from workers.qemu.monitor import Monitor
from workers.step import Context
from workflows.migration.run_states import OVER, STANDING


async def obstacle(ctx: Context, monitor: Monitor) -> str | None:
    """None if the guest can be moved as it is now, else what must be done first. To be called on the source.

    Raises:
        Fatal: it is no longer the guest that was to be moved.
    """
    job = ctx.job
    await refuse_other_devices(ctx, monitor)
    runstate = (await monitor.query("query-status"))["status"]
    if runstate in OVER:
        raise Fatal(
            f"{job.guest} {OVER[runstate]} while it was being moved: it stays on {job.source} with all its images; "
            "start it there, then move it again"
        )
    if runstate != "running":
        wanted = f"{job.guest} {STANDING.get(runstate, 'is paused')} on {job.source}: let it run and the move goes on"
    elif (astray := await asyncio.to_thread(image_astray, ctx)) is not None:
        wanted = f"{astray}; the move waits for that"
    else:
        return None
    return f"{wanted}, or end it with `drover job cancel {job.id}`"


def image_astray(ctx: Context) -> str | None:
    """An image that was moved or deleted since the preflight, and what to do: without its name there is no way back,
    and QEMU itself may have to open it in the switchover.
    """
    guest = Process(ctx.source.pid, ctx.source.started)
    found = open_images.elsewhere(guest, ctx.source.disks, ctx.source.argv) if guest.alive else []
    return found[0].sentence if found else None


async def refuse_other_devices(ctx: Context, monitor: Monitor) -> None:
    """Nothing may have been plugged in or out since the preflight: the guest would not arrive as it is.

    Raises:
        Fatal: something was.
    """
    if changed := _plugged(ctx.source.devices, await block.device_names(monitor)):
        raise Fatal(f"{changed} while {ctx.job.guest} was being moved: it stays on {ctx.job.source}, move it again")


def _plugged(before: Sequence[str], after: Sequence[str]) -> str:
    """Describe added and removed devices."""
    news = [(sorted(set(after) - set(before)), "plugged in"), (sorted(set(before) - set(after)), "unplugged")]
    return " and ".join(f"{', '.join(names)} was {what}" for names, what in news if names)
