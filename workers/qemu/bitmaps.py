"""Dirty bitmaps on a guest's disks, by which backup programs copy only what has changed: they go along with the RAM.

QEMU sends the bitmaps that a mapping names (`dirty-bitmaps`, `block-bitmap-mapping`), transient ones too, while the
guest stands still. At the destination a persistent one is stored in the new image when that is closed. Names of nodes
may be made up in each process, so both sides count the nodes of a drive from the top down. 10.0.2: the source's image
keeps a persistent one marked as in use, so that no backup relies on it there.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from workers.qemu import drives
from workers.qemu.monitor import Monitor

CAPABILITY = "dirty-bitmaps"
OURS = "drover-"
"""Begins the names of bitmaps that a move makes for itself: they stay where they are."""
WRITTEN = f"{OURS}written-"
"""Likewise of those of `workers.qemu.written`."""

SIZE = f"{OURS}size-"
"""Likewise of those that show whether a disk was made smaller, see `workers.qemu.written.watch_size`."""

Bitmaps = dict[str, list[list[str]]]
"""{drive: names of the bitmaps on its topmost node, on the one below it, and so on}."""


def is_theirs(bitmap: Mapping[str, Any]) -> bool:
    """It is neither ours nor QEMU's own: those have no name."""
    return not str(bitmap.get("name") or OURS).startswith(OURS)


def misses_nothing(bitmap: Mapping[str, Any]) -> bool:
    """It is one of `workers.qemu.written`, and has all that was written since it was made."""
    named = str(bitmap.get("name", "")).startswith(WRITTEN)
    return named and bool(bitmap["recording"]) and not bitmap.get("inconsistent")


def of_size(name: str) -> str:
    """What shows, beside the bitmap of this name, that its disk was never smaller."""
    return SIZE + name.removeprefix(WRITTEN)


def never_smaller(name: str, beside: Iterable[Mapping[str, Any]]) -> bool:
    """The disk of the bitmap of this name was never smaller since the switchover, by the bitmaps beside it."""
    return any(bitmap.get("name") == of_size(name) and bitmap["count"] for bitmap in beside)


async def read(monitor: Monitor) -> Bitmaps:
    """Those that are there now; empty if there are none."""
    found = {drive: [_theirs(node) for node in chain] for drive, chain in (await _chains(monitor)).items()}
    return {drive: levels for drive, levels in found.items() if any(levels)}


async def map_to_each_other(monitor: Monitor, bitmaps: Bitmaps) -> None:
    """Have QEMU send, or take, these and no others, once `CAPABILITY` is on.

    Raises:
        CommandRefused: QEMU knows no such mapping.
        KeyError, IndexError: it has no such drive or node.
    """
    chains = await _chains(monitor)
    mapping = [
        {"node-name": chains[drive][level]["node-name"], "alias": f"drive{number}-{level}", "bitmaps": _aliases(names)}
        for number, (drive, levels) in enumerate(sorted(bitmaps.items()))
        for level, names in enumerate(levels)
        if names
    ]
    await monitor.execute("migrate-set-parameters", block_bitmap_mapping=mapping)


async def _chains(monitor: Monitor) -> dict[str, list[drives.Reply]]:
    """Without the filters of mirrors, which only the source has."""
    found = await drives.chains(monitor)
    return {drive: [node for node in chain if node["drv"] != "mirror_top"] for drive, chain in found.items()}


def _theirs(node: Mapping[str, Any]) -> list[str]:
    return [str(bitmap["name"]) for bitmap in node.get("dirty-bitmaps", ()) if is_theirs(bitmap)]


def _aliases(names: list[str]) -> list[dict[str, str]]:
    """A name may be longer than an alias may be."""
    return [{"name": name, "alias": f"bitmap{number}"} for number, name in enumerate(names)]
