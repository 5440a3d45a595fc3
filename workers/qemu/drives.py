"""A guest's drives with a medium, by names that are the same in two QEMUs of one command line.

Used by the switchover processes too: nothing is imported here that takes long.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from workers.qemu.monitor import Monitor

Reply = dict[str, Any]


async def present(monitor: Monitor) -> list[Reply]:
    """The entries of `query-block` with a medium, in QEMU's order."""
    return [entry for entry in await monitor.query("query-block") if "inserted" in entry]


def name_of(entry: Mapping[str, Any]) -> str:
    """Of an entry of `query-block` or `query-blockstats`."""
    return str(entry.get("device") or entry.get("qdev", ""))


async def chains(monitor: Monitor) -> dict[str, list[Reply]]:
    """{drive: its block nodes, as `query-named-block-nodes` shows them, from the one that the guest's requests enter
    down to the file}, without backing files.
    """
    nodes = {node["node-name"]: node for node in await monitor.query("query-named-block-nodes", flat=True)}
    stats = {name_of(entry): entry for entry in await monitor.query("query-blockstats")}
    there = await present(monitor)
    return {name_of(entry): list(_down(stats.get(name_of(entry), {}), nodes)) for entry in there}


def _down(stats: Mapping[str, Any], nodes: Mapping[str, Reply]) -> Iterator[Reply]:
    while (node := nodes.get(stats.get("node-name", ""))) is not None:
        yield node
        stats = stats.get("parent", {})
