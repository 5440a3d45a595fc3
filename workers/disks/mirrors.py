"""The mirrors of one job on the source: their names, their share of the bandwidth, their progress."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from sqlalchemy import func, select

from models.database import transaction
from models.documents import Pace
from models.fleet import SLOWEST_BYTES_PER_S
from models.job import Side, Step
from models.plain import GRANULARITY
from models.sample import Rates
from workers.disks import nbd_server
from workers.qemu import block, known_bugs, target
from workers.qemu.block import Mirror
from workers.qemu.monitor import Monitor, MonitorLost
from workers.step import Context
from workflows import budgets
from workflows.migration import claims
from workflows.migration.links import StepName

LAST_STRETCH_S = 2
"""What a mirror copies in this many seconds counts as the end of its copy, see `Bandwidth`."""
PATIENCE_WITH_LAST_STRETCH_S = 6.0

LATE_BYTES = 1 << 20
"""A mirror counts what it sends in pieces of this size."""
BURST_BYTES = 16 << 20
"""And so much of it at once, after it has counted nothing for a while: all that it may have on its way."""

PATIENCE_S = 5.0
"""A QEMU that gives no answer for this long may be waiting for its link to the NBD server."""


def name(job_id: int, index: int) -> str:
    """Of the block job and of its NBD client node alike."""
    return f"drover-{job_id}-{index}"


def names(ctx: Context) -> list[str]:
    """Of all disks of the job."""
    return [name(ctx.job.id, disk.index) for disk in ctx.disks]


def server(ctx: Context, index: int) -> dict[str, str]:
    """Where this disk's image is offered: at a socket of this host, see `workers.streams`."""
    export = nbd_server.export_name(ctx.served_at.nonce, index)
    return {"path": str(ctx.directory.guest_socket), "export": export}


def detect_zeroes(ctx: Context, index: int, piece_bytes: int) -> str:
    """How the mirror of this disk treats zeroes."""
    disk = ctx.disks[index]
    cluster = disk.create_options.get("cluster_size", "")
    return known_bugs.target_detect_zeroes(
        ctx.destination.qemu_version, disk.format, int(cluster) if cluster.isdigit() else None, piece_bytes
    )


async def connect(ctx: Context, monitor: Monitor, index: int, *, discard: str, piece_bytes: int = GRANULARITY) -> None:
    """Open the target of this disk's mirror; one to an earlier NBD server, or half begun, is dropped."""
    mine = name(ctx.job.id, index)
    await block.drop_mirrors(monitor, [mine])
    zeroes = detect_zeroes(ctx, index, piece_bytes)
    await target.connect(monitor, mine, server(ctx, index), discard=discard, zeroes=zeroes)


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What a mirror had gone over when it was last looked at."""

    at: float = 0.0
    """By the monotonic clock."""
    counted_bytes: int = 0
    """By QEMU, data and holes."""
    data_bytes: int = 0
    spare_bytes: int = 0
    """What its limit has let through by then, and it has not counted yet."""

    def let_through(self, limit_per_s: int, at: float) -> int:
        """What its limit lets through until then."""
        return self.spare_bytes + int(limit_per_s * (at - self.at)) if self.at else 0

    def then(self, at: float, counted_bytes: int, data_bytes: int, limit_per_s: int) -> "Passed":
        """At the next look."""
        spare = self.let_through(limit_per_s, at) - (data_bytes - self.data_bytes)
        return Passed(
            at=at,
            counted_bytes=counted_bytes,
            data_bytes=data_bytes,
            spare_bytes=min(max(spare, 0), BURST_BYTES),
        )


NOTHING_PASSED = Passed()


def just_begun(ctx: Context) -> dict[str, Passed]:
    """{mirror: when it began} where no progress was recorded yet: it has copied what the limit let through since."""
    age = func.extract("epoch", func.clock_timestamp() - Step.started_at)
    mine = (Step.job_id == ctx.job.id) & (Step.name == StepName.MIRROR_DISKS) & (Step.side == Side.SOURCE)
    with transaction() as session:
        seconds = session.scalar(select(age).where(mine))
    at = time.monotonic() - float(seconds or 0)
    return {name(ctx.job.id, disk.index): Passed(at=at) for disk in ctx.job.disks if not disk.bytes_copied}


def without_holes(
    ctx: Context, index: int, mirror: Mirror, *, earlier: Passed = NOTHING_PASSED, limit_per_s: int = 0, at: float = 0.0
) -> tuple[int, int]:
    """(copied, to be copied) in bytes of data. QEMU may count holes, which cost nothing, like data.

    How much of the holes it has passed it does not say. A limited mirror goes over them at once: what is more than the
    limit has let through is holes. Without a limit they are taken as spread evenly.
    """
    disk, size = ctx.disks[index], ctx.disks[index].virtual_size_bytes
    allocated = disk.allocated_bytes
    counts = known_bugs.mirror_counts_holes(ctx.source.qemu_version, ctx.source.disks[index].format, disk.discard)
    if allocated is None or not counts or mirror.total_bytes < size or not size:
        return mirror.copied_bytes, mirror.total_bytes
    holes, passed = max(size - allocated, 0), min(mirror.copied_bytes, size)
    data = passed - holes * passed // size
    if mirror.copied_bytes < earlier.counted_bytes:
        earlier = NOTHING_PASSED  # it began anew
    if limit_per_s and earlier.at:
        let_through = earlier.let_through(limit_per_s, at) + LATE_BYTES
        data = earlier.data_bytes + min(passed - min(earlier.counted_bytes, size), let_through)
        data = max(data, passed - holes)
    data = min(max(data, earlier.data_bytes), allocated, passed)  # not less when the limit is lifted
    return data + mirror.copied_bytes - passed, mirror.total_bytes - holes


def all_in_sync(ctx: Context, states: Mapping[str, Mirror]) -> bool:
    """Every disk has a mirror, and both sides of each are equal."""
    return len(states) == len(ctx.disks) and all(mirror.in_sync for mirror in states.values())


async def missing(ctx: Context, monitor: Monitor) -> list[int]:
    """The disks that are not being mirrored to the present NBD server, or whose mirror has ended."""
    states = await block.mirrors(monitor, names(ctx))
    targets = {
        node["node-name"]: node["image"]["filename"]
        for node in await monitor.query("query-named-block-nodes", flat=True)
        if node["node-name"] in states and not states[node["node-name"]].concluded
    }
    unproven = await block.unproven(monitor)
    mine = {disk.index: targets.get(name(ctx.job.id, disk.index), "") for disk in ctx.disks}
    mine = {index: "" if name(ctx.job.id, index) in unproven else target for index, target in mine.items()}
    return [index for index, target in mine.items() if server(ctx, index)["export"] not in target]


@asynccontextmanager
async def unblocked(ctx: Context, monitor: Monitor) -> AsyncIterator[None]:
    """While a command may wait for a dead link: end the copy rather than let the guest's disks wait."""
    watch = asyncio.create_task(_cut_once_dead(ctx, monitor))
    try:
        yield
    finally:
        watch.cancel()


async def _cut_once_dead(ctx: Context, monitor: Monitor) -> None:
    while True:
        await asyncio.sleep(PATIENCE_S)
        if not await asyncio.to_thread(nbd_server.reachable, ctx):
            with suppress(MonitorLost):  # the caller that waits for the answer gets that error
                await block.cut(monitor, names(ctx))
            return


def share(ctx: Context) -> int:
    """What each disk that the job still copies gets now, in bytes per second; 0: no limit."""
    total, copying = budget(ctx), sum(disk.ready_at is None for disk in ctx.job.disks)
    return max(total // max(copying, 1), SLOWEST_BYTES_PER_S) if total else 0


def budget(ctx: Context) -> int:
    """What the job's streams may take together now, in bytes per second; 0: no limit."""
    return budgets.rate_of(ctx.job)


class Bandwidth:
    """Gives this job's mirrors their parts of what the job may send now, see `workflows.budgets`.

    A guest that writes a little everywhere (every write dirties a whole cluster) might never let a limited mirror get
    ready, after which QEMU lifts the limit itself. So the limit is lifted for one that does not end its copy in time.
    """

    def __init__(self, ctx: Context, monitor: Monitor) -> None:
        self.ctx, self.monitor = ctx, monitor
        self.given: dict[str, int] = {}
        self.limit_per_s = 0
        """What they may take together now, in bytes per second; 0: no limit."""
        self.copied_under_per_s = 0
        """The last such limit that there was."""
        self.near_since: dict[str, float] = {}

    async def share(self, states: Mapping[str, Mirror]) -> None:
        """Set the rates for the present states of the mirrors, and only those that change: at each setting QEMU sends
        what the rate allows in a tenth of a second at once (10.0.2).
        """
        each = await asyncio.to_thread(share, self.ctx)
        due = {
            mine: 0 if self._overdue(mine, mirror, each) else each
            for mine, mirror in states.items()
            if not mirror.concluded
        }
        copying = [rate for mine, rate in due.items() if not states[mine].ready]
        self.limit_per_s = sum(copying) if all(copying) else 0
        self.copied_under_per_s = self.limit_per_s or self.copied_under_per_s
        changed = {mine: rate for mine, rate in due.items() if self.given.get(mine) != rate}
        await block.set_speeds(self.monitor, changed)
        self.given |= changed

    def _overdue(self, mine: str, mirror: Mirror, each: int) -> bool:
        near = 0 < mirror.total_bytes <= mirror.copied_bytes + LAST_STRETCH_S * each
        since = self.near_since.setdefault(mine, time.monotonic()) if near else math.inf
        return time.monotonic() - since > PATIENCE_WITH_LAST_STRETCH_S


def record(ctx: Context, states: Mapping[str, Mirror], seen: dict[str, Passed], limits: Mapping[str, int]) -> None:
    """Record the progress of each disk, and when it first was equal on both sides; read whether it is released.

    Args:
        ctx: of the job.
        states: the mirrors now, by their names.
        seen: what each had passed when it was looked at before: going over holes is progress as well.
        limits: what each may take, in bytes per second; 0 or missing: no limit.
    """
    at = time.monotonic()
    for disk in ctx.job.disks:
        mine = name(ctx.job.id, disk.index)
        mirror = states.get(mine)
        if mirror is None:
            continue
        earlier = seen.get(mine, NOTHING_PASSED)
        if earlier.counted_bytes != mirror.copied_bytes:
            ctx.job.progress_at = ctx.claim.now()
        limit, before = limits.get(mine, 0), disk.delta_bytes or 0
        data, of = without_holes(ctx, disk.index, mirror, earlier=earlier, limit_per_s=limit, at=at)
        seen[mine] = earlier.then(at, mirror.copied_bytes, data, limit)
        copied, total = before + data, before + of
        if mirror.total_bytes and (disk.bytes_first is None or copied < disk.bytes_copied):
            disk.bytes_first = total  # a copy begins, or begins anew
        disk.bytes_copied = copied
        disk.bytes_total = max(total, copied) or disk.bytes_total
        if mirror.ready and disk.ready_at is None:
            disk.ready_at = ctx.claim.now()
    claims.progress(ctx.claim, ctx.settings, None if ctx.job.pace is None else rates(ctx.job.pace))


def rates(pace: Pace) -> Rates:
    """For a sample."""
    return Rates(of_ram=False, sent_per_s=pace.copied_per_s, changed_per_s=pace.written_per_s)


def record_equal(ctx: Context) -> None:
    """Record that nothing was left to be copied when the guest was stopped for good."""
    for disk in ctx.job.disks:
        disk.bytes_copied = disk.bytes_total
    claims.progress(ctx.claim, ctx.settings)
