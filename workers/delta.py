"""On the source: sending only what the guest has written since it left the images that it goes back to.

A mirror is begun that copies nothing by itself, and is paused at once: from then on it remembers every write. After
that a copy of what the bitmap holds is frozen, and this process sends that much, from an export of the guest's QEMU to
the destination's images. What it sends is at least as old as what the mirror sends again once it goes on. Without the
pause it might overwrite something newer: 3 of 6 images differed then (a slow copier and a guest that writes little),
none of 47 with it (10.0.2).

The frozen bitmap has the mirror's name. As long as it is there the mirror is unproven (`workers.qemu.block.unproven`):
a worker that takes over begins anew, which it may do at any time, because the bitmap of the guest's writes is kept.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from drover.errors import DroverError
from models.job import record_event
from workers import mirrors
from workers.qemu import block, known_bugs, limits, nbd, written
from workers.qemu.monitor import CommandRefused, Monitor
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
RECORD_S = 1.0
QEMU_END = "delta.sock"


@dataclass(frozen=True, kw_only=True)
class Changed:
    """One disk, and what has changed there."""

    index: int
    name: str
    """Of its mirror, of what is frozen, and of its export here."""
    device: str
    node: str
    granularity: int
    bytes: int


class CannotTell(DroverError):
    """What has changed is not known, or cannot be sent alone; why."""


async def send(ctx: Context, monitor: Monitor, missing: Sequence[int]) -> bool:
    """Make the destination's images equal to these disks, and have mirrors that keep them so; false: they are empty.

    Raises:
        CannotTell: all of the disks has to be copied onto them.
        CommandRefused: the NBD server cannot be reached.
        Transient: a connection broke.
    """
    bitmap = begun_with(ctx)
    if bitmap is None:
        return False
    disks = [await _changed(ctx, monitor, index, bitmap) for index in missing]
    async with mirrors.unblocked(ctx, monitor):
        await limits.step_aside(monitor)
        for disk in disks:
            await mirrors.connect(ctx, monitor, disk.index, discard="unmap")
            await _begin(monitor, disk, bitmap)
    await asyncio.to_thread(_note, ctx, disks)
    async with _offered(ctx, monitor, disks) as here, _recorded(ctx, disks) as copier:
        for disk in disks:
            await copier.send(here, disk)
    async with mirrors.unblocked(ctx, monitor):
        for disk in disks:
            await _finish(monitor, disk)
    return True


async def _changed(ctx: Context, monitor: Monitor, index: int, bitmap: str) -> Changed:
    if known_bugs.affects("B8", ctx.source.qemu_version):
        raise CannotTell("its QEMU may hang while a mirror is paused")
    if not monitor.takes_files:
        raise CannotTell("its monitor is behind TCP and takes no sockets")
    disk = (await written.disks(monitor)).get(index)
    if disk is None or bitmap not in disk.bitmaps:
        raise CannotTell("its QEMU does not know any more what it has written")
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
        sentence = f"only what it has written since is sent: {amount / 1e6:.1f} MB"
        record_event(session, job.id, by=ctx.claim.owner, action="way_back", sentence=sentence)
    ctx.job.disks = job.disks


async def _begin(monitor: Monitor, disk: Changed, bitmap: str) -> None:
    """A mirror that stands still, and then what had changed by then, frozen. Its target is connected."""
    await block.start_standing_mirror(monitor, disk.name, disk.device)
    frozen = {"node": disk.node, "name": disk.name, "granularity": disk.granularity, "disabled": True}
    merged = {"node": disk.node, "target": disk.name, "bitmaps": [bitmap]}
    await monitor.execute(
        "transaction",
        actions=[
            {"type": "block-dirty-bitmap-add", "data": frozen},
            {"type": "block-dirty-bitmap-merge", "data": merged},
        ],
    )


async def _finish(monitor: Monitor, disk: Changed) -> None:
    """All of it was sent: the mirror goes on, and is proven."""
    await monitor.execute("block-job-resume", device=disk.name)
    await monitor.execute("block-dirty-bitmap-remove", node=disk.node, name=disk.name)


@asynccontextmanager
async def _offered(ctx: Context, monitor: Monitor, disks: Iterable[Changed]) -> AsyncIterator[Path]:
    """The guest's disks at a Unix socket of this worker's own, for reading, with what had changed.

    Raises:
        CannotTell: the guest's QEMU is an NBD server already, for somebody else.
    """
    path = ctx.directory.path / QEMU_END
    await withdraw(ctx, monitor)
    with closing(local.listen(path)) as listening:
        await monitor.give("drover-nbd", listening.fileno())
    try:
        await monitor.execute("nbd-server-start", addr={"type": "fd", "data": {"str": "drover-nbd"}}, max_connections=0)
    except CommandRefused as error:
        path.unlink()
        raise CannotTell(f"its QEMU serves its disks to somebody else ({error})") from error
    try:
        for disk in disks:
            await monitor.execute(
                "block-export-add",
                type="nbd",
                id=disk.name,
                node_name=disk.node,
                name=disk.name,
                writable=False,
                bitmaps=[disk.name],
            )
        yield path
    finally:
        await withdraw(ctx, monitor)


async def withdraw(ctx: Context, monitor: Monitor) -> None:
    """What the guest's QEMU offers to this job is not offered any more. If that is nothing, nothing happens."""
    path = ctx.directory.path / QEMU_END
    if not path.exists():
        return
    for name in await block.exports(monitor) & set(mirrors.names(ctx)):
        await monitor.execute("block-export-del", id=name, mode="hard")  # else "still in use" by what has just hung up
    if await _listens(path):
        await monitor.execute("nbd-server-stop")
    path.unlink(missing_ok=True)  # QEMU does that itself (10.0.2)


async def _listens(path: Path) -> bool:
    """The NBD server in the guest's QEMU is the one that was started for this job."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def _recorded(ctx: Context, disks: Sequence[Changed]) -> AsyncIterator["_Copier"]:
    """What sends them, whose progress is on record and whose rate is the job's share."""
    copier = _Copier(ctx)

    async def keep_recording() -> None:
        while True:
            copier.bytes_per_s = await asyncio.to_thread(mirrors.share, ctx)
            await asyncio.to_thread(copier.record)
            await asyncio.sleep(RECORD_S)

    recording = asyncio.create_task(keep_recording())
    try:
        yield copier
    finally:
        recording.cancel()
    await asyncio.to_thread(copier.record)


class _Copier:
    """Sends what has changed, no faster than it may."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.bytes_per_s = 0
        """0: no limit."""
        self.sent: dict[int, int] = {}
        self.free_at = time.monotonic()

    async def send(self, here: Path, disk: Changed) -> None:
        """From the guest's QEMU to the destination, until all of it is on the disk over there.

        Raises:
            Transient: a connection broke.
        """
        server, context = mirrors.server(self.ctx, disk.index), nbd.bitmap(disk.name)
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(nbd.connect(here, disk.name, [context]))
            target = await stack.enter_async_context(nbd.connect(Path(server["path"]), server["export"]))
            todo = pieces(await source.extents(context, 0, source.size_bytes))
            ways = [(source, target)]
            for _ in range(min(CONNECTIONS, disk.bytes // SHARE_BYTES)):
                more = await stack.enter_async_context(nbd.connect(here, disk.name))
                ways.append(
                    (more, await stack.enter_async_context(nbd.connect(Path(server["path"]), server["export"])))
                )
            try:
                async with asyncio.TaskGroup() as group:
                    for one, other in ways:
                        group.create_task(self._carry(todo, one, other, disk.index))
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from several
            await target.flush()

    async def _carry(self, todo: Iterator[Sequence[Extent]], source: Export, target: Export, index: int) -> None:
        for piece in todo:
            for extent in piece:
                data = await source.read(extent.offset, extent.length)
                if data == bytes(extent.length):
                    await target.zeroes(extent.offset, extent.length)
                else:
                    await self._wait(extent.length)
                    await target.write(extent.offset, data)
                self.sent[index] = self.sent.get(index, 0) + extent.length

    async def _wait(self, size_bytes: int) -> None:
        if self.bytes_per_s:
            now = time.monotonic()
            self.free_at = max(self.free_at, now) + size_bytes / self.bytes_per_s
            await asyncio.sleep(self.free_at - now)

    def record(self) -> None:
        """How far it is."""
        for disk in self.ctx.job.disks:
            if disk.bytes_copied < self.sent.get(disk.index, 0):
                disk.bytes_copied, self.ctx.job.progress_at = self.sent[disk.index], self.ctx.claim.now()
        claims.progress(self.ctx.claim, self.ctx.settings)


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
