"""A running guest's disks, offered read-only by its own QEMU at a socket of ours.

Another process could not read an image soundly while QEMU writes its metadata. QEMU gets the listening socket as an
open file, so that it needs no access to our folders, whatever user it runs as.
"""

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from drover.errors import Fatal, Transient
from workers.qemu.monitor import CommandRefused, Monitor

PREFIX = "drover-own-"
_SOCKET = "drover-own"
GONE_WITHIN_S = 30.0


def name(index: int) -> str:
    """Of the export of a disk."""
    return f"{PREFIX}{index}"


def frozen(index: int) -> str:
    """Of the frozen copy of its bitmap, and of the export that offers it."""
    return f"{PREFIX}{index}-written"


async def begin(monitor: Monitor, listening: socket.socket, nodes: Mapping[int, str], mine: Path) -> None:
    """Offer these disks, {index: node}. What an earlier process left is taken away first.

    The file `mine` is there while QEMU's NBD server is ours.

    Raises:
        Fatal: the guest's owner uses QEMU's NBD server, or there is no way to hand a socket over.
    """
    if not monitor.takes_files:
        raise Fatal("the guest's monitor is reached by TCP: QEMU takes no socket that way")
    await end(monitor, mine)
    await monitor.give(_SOCKET, listening.fileno())
    mine.touch(mode=0o600)
    try:
        await monitor.execute("nbd-server-start", addr={"type": "fd", "data": {"str": _SOCKET}})
    except CommandRefused as error:
        mine.unlink()
        raise Fatal(f"the guest's QEMU offers its disks to somebody else already ({error})") from error
    for index, node in nodes.items():
        await monitor.execute("block-export-add", type="nbd", id=name(index), node_name=node, name=name(index))


async def freeze(monitor: Monitor, index: int, node: str, bitmaps: Sequence[str], granularity: int) -> None:
    """Offer a copy of what these bitmaps of a disk hold now together, in place of an earlier one.

    A transaction waits for all requests that are on their way, so what they write is in the bitmap.
    """
    await _remove(monitor, frozen(index))
    await monitor.execute_if_there("block-dirty-bitmap-remove", node=node, name=frozen(index))
    copy = {"node": node, "name": frozen(index)}
    actions = [
        {"type": "block-dirty-bitmap-add", "data": {**copy, "granularity": granularity, "disabled": True}},
        {
            "type": "block-dirty-bitmap-merge",
            "data": {"node": node, "target": frozen(index), "bitmaps": list(bitmaps)},
        },
    ]
    await monitor.execute("transaction", actions=actions)
    await monitor.execute(
        "block-export-add", type="nbd", id=frozen(index), node_name=node, name=frozen(index), bitmaps=[frozen(index)]
    )


async def end(monitor: Monitor, mine: Path) -> None:
    """Take exports, frozen copies and server away. Where there is nothing of ours nothing happens."""
    if not mine.exists():
        return
    for export in await monitor.query("query-block-exports"):
        if export["id"].startswith(PREFIX):
            await _remove(monitor, export["id"])
    for node in await monitor.query("query-named-block-nodes", flat=True):
        for bitmap in node.get("dirty-bitmaps", ()):
            if str(bitmap.get("name", "")).startswith(PREFIX):
                await monitor.execute("block-dirty-bitmap-remove", node=node["node-name"], name=bitmap["name"])
    left = await monitor.query("query-block-exports")
    if not any(export["type"] == "nbd" for export in left):  # else the server is another's
        await monitor.execute_if_there("nbd-server-stop")
    mine.unlink()


async def _remove(monitor: Monitor, export: str) -> None:
    """Gone is an export only when its last request has ended.

    Raises:
        Transient: that takes too long.
    """
    await monitor.execute_if_there("block-export-del", id=export, mode="hard")
    deadline = time.monotonic() + GONE_WITHIN_S
    while any(found["id"] == export for found in await monitor.query("query-block-exports")):
        if time.monotonic() > deadline:
            raise Transient(f"the guest's QEMU did not end its export {export} within {GONE_WITHIN_S:g} s")
        await asyncio.sleep(0.01)
