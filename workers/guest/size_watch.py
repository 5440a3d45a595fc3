"""At the destination: a disk that is made smaller after the switchover is known by it, see `workers.qemu.written`.

It is a condition of the way back by changes, and of nothing else. QEMU 10.0 and later take it before the guest comes.
With an earlier one it begins once the guest runs, and only where that is soon: an owner would have to make a disk
smaller and larger again within that time to go unseen.
"""

import logging
import time

from workers.qemu import written
from workers.qemu.monitor import CommandRefused, Monitor
from workers.step import Context

log = logging.getLogger(__name__)

SOON_S = 5.0


async def begin(ctx: Context, monitor: Monitor, *, runs: bool) -> None:
    """For the disks that have the size of the plan, before the guest comes or when it runs."""
    recorded = ctx.directory.recorded_nodes.read()
    if recorded is None:
        return  # an earlier version has begun the move
    if runs and time.time() > ctx.directory.marker.stat().st_mtime + SOON_S:
        return
    nodes = recorded.nodes
    sizes = {nodes[disk.index]: disk.virtual_size_bytes for disk in ctx.disks if disk.index in nodes}
    name = written.name(ctx.job.id, ctx.served_at.nonce)
    try:
        await written.watch_size(monitor, name, sizes, runs=runs)
    except CommandRefused as error:
        log.info("%s may go back as a whole: %s", ctx.job.guest, error)
