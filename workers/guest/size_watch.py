"""At the destination: a disk that is made smaller after the switchover is known by it, see `workers.qemu.written`.

It is a condition of the way back by changes, and of nothing else. QEMU 10.0 and later take it before the guest comes.
An earlier one takes it only once the guest runs; a disk that was made smaller and larger again before that would go
unseen. So a guest that came to such a one goes back as a whole.
"""

import logging
from collections.abc import Mapping

from workers.qemu import written
from workers.qemu.monitor import CommandRefused, Monitor
from workers.step import Context

log = logging.getLogger(__name__)


async def begin(ctx: Context, monitor: Monitor, nodes: Mapping[int, str]) -> None:
    """Before the guest comes, for its disks, {index: node}, that have the size of the plan."""
    sizes = {nodes[disk.index]: disk.virtual_size_bytes for disk in ctx.disks if disk.index in nodes}
    try:
        await written.watch_size(monitor, written.name(ctx.job.id, ctx.served_at.nonce), sizes, runs=False)
    except CommandRefused as error:
        log.info("%s goes back as a whole: %s", ctx.job.guest, error)
