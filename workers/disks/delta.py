"""On the source: sending only what the guest has written since it left the images that it goes back to.

A mirror is begun that copies nothing by itself, and is paused at once: from then on it remembers every write. After
that a copy of what the bitmap holds is frozen, and this process sends that much, from an export of the guest's QEMU to
the destination's images. What it sends is at least as old as what the mirror sends again once it goes on. Without the
pause it might overwrite something newer: 3 of 6 images differed then (a slow copier and a guest that writes little),
none of 47 with it (10.0.2).

Until all of it was sent the mirror is unproven (`workers.qemu.block.unproven`): a worker that takes over begins anew,
which it may do at any time, because the bitmap of the guest's writes is kept.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drover import words
from drover.errors import DroverError, Fatal
from models.event_action import EventAction
from models.job import record_event
from workers.disks import mirrors
from workers.disks.held_up import Remarks, no_room
from workers.disks.pace import RECORD_S, Meter, RateLimiter
from workers.files import write_durably
from workers.qemu import block, known_bugs, limits, nbd, own_export, written
from workers.qemu.bitmaps import of_size
from workers.qemu.monitor import Monitor
from workers.qemu.nbd import Export, Extent
from workers.step import Context
from workers.streams import local
from workers.streams.supervisor import begun_with
from workflows.migration import claims

PIECE_BYTES = 2 << 20
"""What is read and sent at once, and the largest cluster of qcow2. No two connections write into one such piece."""
CONNECTIONS = 8
"""More than the first: small changes that lie apart cost a round trip each."""
SHARE_BYTES = 1 << 20
"""So much for each of these."""
QEMU_END = "delta.sock"
TRY_AGAIN_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Changed:
    """One disk, and what has changed there."""

    index: int
    name: str
    """Of its mirror."""
    device: str
    node: str
    granularity: int
    bytes: int


class CannotTell(DroverError):
    """What has changed is not known, or cannot be sent alone; why."""


async def send(ctx: Context, monitor: Monitor, missing: Sequence[int]) -> bool:
    """Make the destination's images equal to these disks, and have mirrors that keep them so; false: they are empty.

    Raises:
        CannotTell: all of the disks has to be copied onto them, now or since an earlier attempt.
        CommandRefused: the NBD server cannot be reached.
        Transient: a connection broke.
    """
    bitmap = begun_with(ctx)
    if bitmap is None:
        return False
    if _whole(ctx).exists():
        raise CannotTell("a copy of all of them was begun before")
    disks = [await _changed(ctx, monitor, index, bitmap) for index in missing]
    async with mirrors.unblocked(ctx, monitor):
        await limits.step_aside(monitor)
        for disk in disks:
            await mirrors.connect(ctx, monitor, disk.index, discard="unmap")
            await block.start_standing_mirror(monitor, disk.name, disk.device)
    async with _offered(ctx, monitor, disks, bitmap) as here, _recorded(ctx, disks) as copier:
        for disk in disks:
            await copier.send(here, disk)
    async with mirrors.unblocked(ctx, monitor):
        for disk in disks:
            await block.let_mirror_go_on(monitor, disk.name, disk.device)
    return True


async def _changed(ctx: Context, monitor: Monitor, index: int, bitmap: str) -> Changed:
    if known_bugs.affects("B8", ctx.source.qemu_version):
        raise CannotTell("its QEMU may hang while a mirror is paused")
    disk = (await written.disks(monitor)).get(index)
    if disk is None or bitmap not in disk.bitmaps:
        raise CannotTell("its QEMU does not know any more what it has written")
    if bitmap not in disk.never_smaller:
        raise CannotTell("a disk was made smaller meanwhile, and what it lost is not recorded")
    if disk.node != next(seen.node for seen in ctx.source.disks if seen.index == index):
        raise CannotTell("its disks were plugged in anew since it was looked at")  # their indices may have changed
    seen = disk.bitmaps[bitmap]
    return Changed(
        index=index,
        name=mirrors.name(ctx.job.id, index),
        device=ctx.plan.disks[index].device,
        node=disk.node,
        granularity=seen.granularity,
        bytes=seen.count,
    )


def _note(ctx: Context, disks: Sequence[Changed]) -> None:
    """What there is to copy is that, and no more."""
    changed = {disk.index: disk.bytes for disk in disks}
    with ctx.record() as (session, job, _step):
        for row in job.disks:
            if row.index in changed:
                row.delta_bytes = row.bytes_total = row.bytes_first = changed[row.index]
                row.bytes_copied = 0
        amount = sum(changed.values())
        sentence = f"only what it has written since is sent: {words.size(amount)}"
        record_event(session, job.id, by=ctx.claim.owner, action=EventAction.WAY_BACK, sentence=sentence)
    ctx.job.disks = job.disks


def nothing_is_left_out(ctx: Context, why: str) -> None:
    """All of the disks is copied after all, whatever may be told by the time of another attempt.

    QEMU may begin with zeroes: from then on the images are not what they were but for what has changed.
    """
    write_durably(_whole(ctx), why)
    sizes = {disk.index: disk.virtual_size_bytes for disk in ctx.disks}
    with ctx.record() as (session, job, _step):
        for row in job.disks:
            row.delta_bytes, row.bytes_first = None, None
            row.bytes_total, row.bytes_copied = sizes[row.index], 0
        sentence = f"all of its disks is copied onto the images that it left behind: {why}"
        record_event(session, job.id, by=ctx.claim.owner, action=EventAction.WAY_BACK, sentence=sentence)
    ctx.job.disks = job.disks


@asynccontextmanager
async def _offered(ctx: Context, monitor: Monitor, disks: Sequence[Changed], bitmap: str) -> AsyncIterator[Path]:
    """The guest's disks at a Unix socket of this worker's own, for reading, with what had changed by now, frozen.

    Raises:
        CannotTell: the guest's QEMU offers its disks to somebody else.
    """
    path, mine = ctx.directory.path / QEMU_END, _mine(ctx)
    try:
        with local.listen(path) as listening:
            await own_export.begin(monitor, listening, {disk.index: disk.node for disk in disks}, mine)
        for disk in disks:
            both = (bitmap, of_size(bitmap))  # in the last page a disk may have been smaller
            await own_export.freeze(monitor, disk.index, disk.node, both, disk.granularity)
    except Fatal as error:
        raise CannotTell(str(error)) from error
    try:
        yield path
    finally:
        await withdraw(ctx, monitor)


def _whole(ctx: Context) -> Path:
    return ctx.directory.path / "whole"


def _mine(ctx: Context) -> Path:
    return ctx.directory.path / "delta-export"


async def withdraw(ctx: Context, monitor: Monitor) -> None:
    """What the guest's QEMU offers to this job is not offered any more. If that is nothing, nothing happens."""
    await own_export.end(monitor, _mine(ctx))


@asynccontextmanager
async def _recorded(ctx: Context, disks: Sequence[Changed]) -> AsyncIterator["_Copier"]:
    """What sends them, one after the other, whose progress is on record and whose rate is the job's."""
    await asyncio.to_thread(_note, ctx, disks)
    copier = _Copier(ctx, await asyncio.to_thread(mirrors.budget, ctx))

    async def keep_recording() -> None:
        while True:
            await asyncio.to_thread(copier.record)
            await asyncio.sleep(RECORD_S)
            copier.limiter.bytes_per_s = await asyncio.to_thread(mirrors.budget, ctx)

    recording = asyncio.create_task(keep_recording())
    try:
        yield copier
    finally:
        recording.cancel()
        await asyncio.gather(recording, return_exceptions=True)  # one that failed is no reason to end the copy
    await asyncio.to_thread(copier.record)


class _Copier:
    """Sends what has changed, no faster than it may."""

    def __init__(self, ctx: Context, bytes_per_s: int) -> None:
        self.ctx = ctx
        self.limiter, self.meter = RateLimiter(bytes_per_s), Meter()
        self.remarks, self.lacking = Remarks(ctx), 0
        self.sent: dict[int, int] = {}

    async def send(self, here: Path, disk: Changed) -> None:
        """From the guest's QEMU to the destination, until all of it is on the disk over there.

        Raises:
            Transient: a connection broke.
        """
        server, todo = mirrors.server(self.ctx, disk.index), pieces(await _frozen(here, disk))
        async with AsyncExitStack() as stack:
            ways = []
            for _ in range(1 + min(CONNECTIONS, disk.bytes // SHARE_BYTES)):
                source = await stack.enter_async_context(nbd.connect(here, own_export.name(disk.index)))
                target = await stack.enter_async_context(nbd.connect(Path(server["path"]), server["export"]))
                ways.append((source, target))
            try:
                async with asyncio.TaskGroup() as group:
                    for source, target in ways:
                        group.create_task(self._carry(todo, source, target, disk.index))
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from several
            await self._once_there_is_room(disk.index, target.flush)

    async def _carry(self, todo: Iterator[Sequence[Extent]], source: Export, target: Export, index: int) -> None:
        for piece in todo:
            for extent in piece:
                data = await source.read(extent.offset, extent.length)
                if data == bytes(extent.length):
                    await self._once_there_is_room(index, partial(target.zeroes, extent.offset, extent.length))
                else:
                    await self.limiter.keep(extent.length)
                    await self._once_there_is_room(index, partial(target.write, extent.offset, data))
                self.sent[index] = self.sent.get(index, 0) + extent.length

    async def _once_there_is_room(self, index: int, request: Callable[[], Awaitable[None]]) -> None:
        """Where the destination's file system is full that is waited for, as `await_sync` does."""
        path, waits = self.ctx.plan.disks[index].destination_path, False
        while True:
            try:
                await request()
                break
            except nbd.NoRoom:
                self.lacking += not waits
                waits = True
                await asyncio.to_thread(self.remarks.tell, no_room(self.ctx.job, [path]))
                await asyncio.sleep(TRY_AGAIN_S)
        self.lacking -= waits
        if waits and not self.lacking:
            await asyncio.to_thread(self.remarks.tell, None)

    def record(self) -> None:
        """Write down how far the copies are, and prolong the lease."""
        for disk in self.ctx.job.disks:
            if disk.bytes_copied < self.sent.get(disk.index, 0):
                disk.bytes_copied, self.ctx.job.progress_at = self.sent[disk.index], self.ctx.claim.now()
        sent, total = sum(self.sent.values()), sum(disk.bytes_total for disk in self.ctx.job.disks)
        pace = self.meter.look(sent, total, limit := self.limiter.bytes_per_s)
        self.ctx.job.pace = pace.model_copy(update={"copied_under_per_s": limit})
        claims.progress(self.ctx.claim, self.ctx.settings, mirrors.rates(pace))
        self.ctx.announce(100 * sent // max(total, 1))


async def _frozen(here: Path, disk: Changed) -> Sequence[Extent]:
    """What had changed as the copy was begun."""
    name = own_export.frozen(disk.index)
    async with nbd.connect(here, name, [nbd.bitmap(name)]) as export:
        return await export.extents(nbd.bitmap(name), 0, export.size_bytes)


def pieces(extents: Iterable[Extent]) -> Iterator[Sequence[Extent]]:
    """What is dirty, cut at multiples of `PIECE_BYTES`, what lies in one piece together."""
    piece, number = list[Extent](), -1
    for extent in extents:
        begin = extent.offset
        while extent.is_dirty and begin < extent.end:
            end = min(extent.end, (begin // PIECE_BYTES + 1) * PIECE_BYTES)
            if begin // PIECE_BYTES != number and piece:
                yield piece
                piece = []
            number = begin // PIECE_BYTES
            piece.append(Extent(begin, end - begin, extent.flags))
            begin = end
    if piece:
        yield piece
