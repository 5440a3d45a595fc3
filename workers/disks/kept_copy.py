"""On the source: what a copy lacks that is rolled back, so that the next move to the same host sends no more than that.

A bitmap records what the guest writes from before its mirror begins. Once the mirror was ready, the image over there
has all else, whatever was on its way when it was cut off. That holds for the NBD server of one nonce, after which the
bitmap is named; another one means another copy. It counts only from `keep` on: before that it has nothing beside it
which shows that its disk was never smaller, and is no evidence (`workers.qemu.written`); while there is a mirror QEMU
lets nobody change the size.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from drover.errors import Transient
from models import kept_images
from models.database import transaction
from models.event_action import EventAction
from models.fleet import retention_of
from workers.disks import mirrors
from workers.qemu import block, written
from workers.qemu.monitor import CommandRefused, Monitor
from workers.qemu.written import Disk
from workers.step import Context
from workers.streams.supervisor import begun_with

log = logging.getLogger(__name__)

TRIES, STILL_S = 25, 2.0
CATCHES_UP_S = 0.01
"""What a guest writes in a moment is sent within so long; then the mirror rests for a tenth of a second (10.0.2)."""


async def begin(ctx: Context, monitor: Monitor, indices: Sequence[int]) -> None:
    """Right before the mirrors of these disks: what was recorded of an earlier copy onto the same images is dropped."""
    if not await asyncio.to_thread(_would_be_kept, ctx):
        return
    name, disks = _name(ctx), await written.disks(monitor)
    for disk in disks.values():
        for useless in await asyncio.to_thread(_of_no_use, ctx, disk.bitmaps):
            await written.forget(monitor, disk.node, useless)
    for index in indices:
        await written.forget(monitor, disks[index].node, name)
        await written.add(monitor, disks[index], name)


def _would_be_kept(ctx: Context) -> bool:
    """The destination keeps files that are not encrypted, and them for some time; what the guest had left there before
    it keeps as that.
    """
    if begun_with(ctx) is not None:
        return False
    with transaction() as session:
        kept_for = retention_of(session, ctx.job.destination, ctx.job.options.retention_s)
    return bool(kept_for) and not any(disk.destination_device or disk.key_secret for disk in ctx.disks)


def _of_no_use(ctx: Context, bitmaps: Iterable[str]) -> list[str]:
    """Those of earlier moves of which no images are kept any more."""
    jobs = {name: job for name in bitmaps if (job := written.job_of(name)) not in {None, ctx.job.id}}
    with transaction() as session:
        return [name for name, job in jobs.items() if job is not None and not kept_images.any_of(session, job)]


async def keep(ctx: Context, monitor: Monitor) -> None:
    """The mirrors are about to be ended, wherever they are. May be done again, also once they are gone."""
    if ctx.job.nbd_server is None:
        return
    async with mirrors.unblocked(ctx, monitor):
        recorded = await _recorded(ctx, monitor)
    if recorded:
        sentence = (
            f"its copy on {ctx.job.destination} was complete: what it writes from now on is recorded, and a later move "
            "there needs only that"
        )
        await asyncio.to_thread(ctx.tell, EventAction.COPY_RECORDED, sentence)
        return
    for disk in (await written.disks(monitor)).values():
        await written.forget(monitor, disk.node, _name(ctx))


async def _recorded(ctx: Context, monitor: Monitor) -> bool:
    """All that this copy lacks is in bitmaps that are evidence."""
    name, disks = _name(ctx), await written.disks(monitor)
    if not disks or not all(name in disk.bitmaps for disk in disks.values()):
        return False  # it went by changes
    if _watched(disks, name):
        return True  # by a worker that died
    if not await _was_complete(ctx, monitor):
        return False
    await _narrow(ctx, monitor, disks)
    await block.cut(monitor, mirrors.names(ctx))  # else QEMU, and the guest, would wait for what is on its way
    try:
        await written.watch_size(monitor, name, {disk.node: disk.virtual_size_bytes for disk in ctx.source.disks})
    except CommandRefused as error:
        log.warning("its copy is not kept: %s", error)
    return _watched(await written.disks(monitor), name)


def _watched(disks: Mapping[int, Disk], name: str) -> bool:
    return all(name in disk.never_smaller for disk in disks.values())


async def _was_complete(ctx: Context, monitor: Monitor) -> bool:
    """All of this copy's mirrors are there still, and each was ready once."""
    states = await block.mirrors(monitor, mirrors.names(ctx))
    ready = len(states) == len(ctx.disks) and all(mirror.ready and not mirror.no_room for mirror in states.values())
    return ready and not await mirrors.missing(ctx, monitor)


async def _narrow(ctx: Context, monitor: Monitor, disks: Mapping[int, Disk]) -> None:
    """What was recorded while the disks were copied, or kept in sync, is over there by now, but for the last of it.

    The mirrors stand still afterwards. Where that does not succeed, for instance because the guest writes all the time
    or the link is cut, the bitmap holds more than is missing.
    """
    try:
        for index, disk in disks.items():
            await narrow(monitor, mirrors.name(ctx.job.id, index), disk, _name(ctx))
    except (CommandRefused, Transient) as error:
        log.info("more than is missing will be sent: %s", error)


async def narrow(monitor: Monitor, mirror: str, disk: Disk, name: str) -> None:
    """Likewise of one disk. Errors as for `block.stand_still`."""

    async def nothing_is_left() -> bool:
        return await block.unsent(monitor, disk.node) == 0

    for _ in range(TRIES):
        await block.stand_still(monitor, mirror, STILL_S)
        if await written.narrow(monitor, disk, name, nothing_is_left):
            return
        await monitor.execute("block-job-resume", device=mirror)
        await asyncio.sleep(CATCHES_UP_S)


def _name(ctx: Context) -> str:
    return written.name(ctx.job.id, ctx.served_at.nonce)
