"""What a guest has written since it runs where it runs now: a dirty bitmap on each of its disks.

The incoming QEMU gets them before its RAM is sent, so that they are empty at the switchover and miss nothing after it:
until then the images are written by the NBD server, which is another process. They live as long as that QEMU.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.plan import SourceDisk
from workers.qemu.bitmaps import WRITTEN, misses_nothing, never_smaller, of_size
from workers.qemu.disks import Replies, source_disks
from workers.qemu.monitor import Monitor

FINEST = 1 << 12
"""Bytes that one bit stands for, at least: what a guest changes is mostly pages of its file systems."""
BLANK, SECTOR = "drover-blank", 512
SINCE = "drover-since"
TELLS_SIZES_SINCE = (10, 0, 0)
"""An earlier QEMU cannot take what `watch_size` makes before its guest comes."""
MOST_BITS = 1 << 24
"""2 MiB of memory for one disk. The bits of a larger one stand for more."""


@dataclass(frozen=True, kw_only=True)
class Bitmap:
    """One that records what is written."""

    granularity: int
    """Bytes that one bit stands for."""
    count: int
    """Bytes that were written, in whole bits."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A writable disk of a running guest."""

    node: str
    """The block node with the image's format, which its bitmaps are on."""
    path: str
    """As this QEMU was told to open it."""
    size_bytes: int
    bitmaps: Mapping[str, Bitmap] = field(default_factory=dict)
    """{name: bitmap}, only ours, and only those that miss nothing."""
    never_smaller: frozenset[str] = frozenset()
    """Those of them that are known to hold all that differs: the disk was never smaller meanwhile."""


def name(job_id: int, nonce: str) -> str:
    """Of the bitmaps of a guest that a job moves by this copy: no other copy's are taken for it."""
    return f"{WRITTEN}{job_id}-{hashlib.sha256(nonce.encode()).hexdigest()[:12]}"


def job_of(name: str) -> int | None:
    """Whose bitmap that is; None: none of ours."""
    number, _, _ = name.removeprefix(WRITTEN).partition("-")
    return int(number) if number.isdecimal() else None


async def disks(monitor: Monitor) -> dict[int, Disk]:
    """A guest's writable disks with their bitmaps, by the disk's index."""
    replies = await Replies.of(monitor, flat=True)
    shown = {node["node-name"]: node.get("dirty-bitmaps", ()) for node in replies.named_block_nodes}
    return {disk.index: _disk(disk, shown[disk.node]) for disk in source_disks(replies)}


def _disk(disk: SourceDisk, bitmaps: Sequence[Mapping[str, Any]]) -> Disk:
    found = {
        bitmap["name"]: Bitmap(granularity=bitmap["granularity"], count=bitmap["count"])
        for bitmap in bitmaps
        if misses_nothing(bitmap)
    }
    return Disk(
        node=disk.node,
        path=disk.path,
        size_bytes=disk.virtual_size_bytes,
        bitmaps=found,
        never_smaller=frozenset(name for name in found if never_smaller(name, bitmaps)),
    )


async def record(monitor: Monitor, name: str) -> dict[str, str]:
    """From now on, under this name, on every writable disk; what was recorded of another copy is dropped.

    Where that is done already nothing is changed, and nothing is forgotten. Returns the nodes by the images' paths:
    disks that were plugged in at the source have other places among the others in the next process.
    """
    found = await disks(monitor)
    for disk in found.values():
        for other in disk.bitmaps.keys() - {name}:
            await forget(monitor, disk.node, other)
        if name not in disk.bitmaps:
            await add(monitor, disk, name)
    return {disk.path: disk.node for disk in found.values()}


async def add(monitor: Monitor, disk: Disk, name: str) -> None:
    """From now on what is written to this disk is recorded under this name."""
    await monitor.execute(
        "block-dirty-bitmap-add",
        node=disk.node,
        name=name,
        granularity=granularity(disk.size_bytes),
        persistent=False,
    )


async def forget(monitor: Monitor, node: str, name: str) -> None:
    """Nothing is known by this name any more. If nothing is, nothing happens."""
    for bitmap in (name, of_size(name)):
        await monitor.execute_if_there("block-dirty-bitmap-remove", node=node, name=bitmap)


async def narrow(monitor: Monitor, disk: Disk, name: str, over_there: Callable[[], Awaitable[bool]]) -> bool:
    """Take out of a bitmap what was written before this instant, if the answer is that all of that is over there.

    What is written while that is asked stays. A transaction waits for all requests that are on their way, so each of
    them is either known to whoever answers or in the new bitmap, which is merged before anything is lost.
    """
    node, grain = disk.node, granularity(disk.size_bytes)
    await monitor.execute_if_there("block-dirty-bitmap-remove", node=node, name=SINCE)  # of a worker that died
    adding = {"node": node, "name": SINCE, "granularity": grain, "persistent": False}
    await monitor.execute("transaction", actions=[{"type": "block-dirty-bitmap-add", "data": adding}])
    try:
        narrowed = await over_there()
        if narrowed:
            merging = {"node": node, "target": name, "bitmaps": [SINCE]}
            actions = [
                {"type": "block-dirty-bitmap-clear", "data": {"node": node, "name": name}},
                {"type": "block-dirty-bitmap-merge", "data": merging},
            ]
            await monitor.execute("transaction", actions=actions)
    finally:
        await monitor.execute_if_there("block-dirty-bitmap-remove", node=node, name=SINCE)
    return narrowed


async def watch_size(monitor: Monitor, name: str, sizes: Mapping[str, int], *, runs: bool = True) -> None:
    """From now on it shows if a disk is made smaller: what it loses then, and has as zeroes once it is larger again, is
    in no bitmap (10.0.2). Disks that have not the size that they had at the switchover, {node: bytes}, are left out.

    It is a bitmap that records nothing, whose last bit is set. QEMU shortens it with the disk, and the bit does not
    come back. No command sets a bit, so it is merged from the bitmap of a node that holds nothing. A QEMU that waits
    for its RAM (`runs` is false) makes nodes that are not active, and ends when anything is written to one.

    Raises:
        CommandRefused: QEMU knows no such bitmaps or nodes, or before 10.0 cannot activate one.
    """
    for disk in (await disks(monitor)).values():
        if name in disk.bitmaps and name not in disk.never_smaller and sizes.get(disk.node) == disk.size_bytes:
            await _watch_size(monitor, of_size(name), disk, disk.bitmaps[name].granularity, runs=runs)


async def _watch_size(monitor: Monitor, name: str, disk: Disk, grain: int, *, runs: bool) -> None:
    bitmap: dict[str, Any] = {"name": name, "granularity": grain, "persistent": False}
    await monitor.execute_if_there("blockdev-del", node_name=BLANK)  # of a worker that died
    await monitor.execute("blockdev-add", driver="null-co", node_name=BLANK, size=disk.size_bytes)
    try:
        if not runs:
            await monitor.execute("blockdev-set-active", node_name=BLANK, active=True)
        await monitor.execute("block-dirty-bitmap-add", node=BLANK, **bitmap)
        last = f'qemu-io {BLANK} "write -z {disk.size_bytes - SECTOR} {SECTOR}"'
        await monitor.execute("human-monitor-command", command_line=last)
        actions = [
            {"type": "block-dirty-bitmap-add", "data": {"node": disk.node, "disabled": True, **bitmap}},
            {
                "type": "block-dirty-bitmap-merge",
                "data": {"node": disk.node, "target": name, "bitmaps": [{"node": BLANK, "name": name}]},
            },
        ]
        await monitor.execute("transaction", actions=actions)
    finally:
        await monitor.execute_if_there("blockdev-del", node_name=BLANK)


def granularity(size_bytes: int) -> int:
    """Bytes that one bit stands for on a disk of this size."""
    coarse = FINEST
    while size_bytes > coarse * MOST_BITS:
        coarse *= 2
    return coarse
