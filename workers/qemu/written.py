"""What a guest has written since it runs where it runs now: a dirty bitmap on each of its disks.

The incoming QEMU gets them before its RAM is sent, so that they are empty at the switchover and miss nothing after it:
until then the images are written by the NBD server, which is another process. They live as long as that QEMU.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.qemu.bitmaps import WRITTEN, misses_nothing
from workers.qemu.disks import source_disks
from workers.qemu.monitor import Monitor

FINEST = 1 << 12
"""Bytes that one bit stands for, at least: what a guest changes is mostly pages of its file systems."""
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
    size_bytes: int
    bitmaps: Mapping[str, Bitmap] = field(default_factory=dict)
    """{name: bitmap}, only ours, and only those that miss nothing."""


def name(job_id: int, nonce: str) -> str:
    """Of the bitmaps of a guest that a job moves by this copy: no other copy's are taken for it."""
    return f"{WRITTEN}{job_id}-{hashlib.sha256(nonce.encode()).hexdigest()[:12]}"


async def disks(monitor: Monitor) -> dict[int, Disk]:
    """A guest's writable disks with their bitmaps, by the disk's index."""
    replies = {
        "query_block": await monitor.query("query-block"),
        "named_block_nodes": await monitor.query("query-named-block-nodes", flat=True),
        "blockstats": await monitor.query("query-blockstats"),
    }
    shown = {node["node-name"]: node.get("dirty-bitmaps", ()) for node in replies["named_block_nodes"]}
    return {
        disk.index: Disk(
            node=disk.node,
            size_bytes=disk.virtual_size_bytes,
            bitmaps={bitmap["name"]: _bitmap(bitmap) for bitmap in shown[disk.node] if misses_nothing(bitmap)},
        )
        for disk in source_disks(**replies)
    }


def _bitmap(shown: Mapping[str, Any]) -> Bitmap:
    return Bitmap(granularity=shown["granularity"], count=shown["count"])


async def record(monitor: Monitor, name: str) -> dict[int, str]:
    """From now on, under this name, on every writable disk; what was recorded of another copy is dropped.

    Where that is done already nothing is changed, and nothing is forgotten. Returns the nodes by the disks' indices.
    """
    found = await disks(monitor)
    for disk in found.values():
        for other in disk.bitmaps.keys() - {name}:
            await monitor.execute("block-dirty-bitmap-remove", node=disk.node, name=other)
        if name not in disk.bitmaps:
            await monitor.execute(
                "block-dirty-bitmap-add",
                node=disk.node,
                name=name,
                granularity=granularity(disk.size_bytes),
                persistent=False,
            )
    return {index: disk.node for index, disk in found.items()}


def granularity(size_bytes: int) -> int:
    """Bytes that one bit stands for on a disk of this size."""
    coarse = FINEST
    while size_bytes > coarse * MOST_BITS:
        coarse *= 2
    return coarse
