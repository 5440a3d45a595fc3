"""I/O limits of a running guest: read as they are now, set at the destination, and kept out of the way of mirrors.

QEMU knows two kinds. Those of a drive (`throttling.*`, `block_set_io_throttle`) hold for the guest's own requests.
A throttle node with its group (Proxmox 9 puts one on every disk) holds for all that passes it, a mirror too: QEMU takes
no mirror of the node below it ("Need a root block node", 10.0.2), and one of a disk with 1 MiB/s copied 1 MiB/s. So
while disks are mirrored a group's limits are those of its drives: the guest is limited as before, the mirror is not.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workers.qemu import drives
from workers.qemu.monitor import Monitor

ASIDE = "drover-"
"""Begins the names of the groups of drives that stand in for throttle nodes' groups."""
FIELDS = {
    f"{unit}-{way}": f"{unit}{short}"
    for unit in ("bps", "iops")
    for way, short in (("total", ""), ("read", "_rd"), ("write", "_wr"))
}
"""Limits by their names in a throttle group, and of a drive. Each has a burst (`max`) and its length besides."""
NO_LIMITS = dict.fromkeys(FIELDS.values(), 0)

Limits = dict[str, Any]


async def read(monitor: Monitor) -> Limits:
    """All limits as they are now: {"groups": {group: limits}, "drives": {drive: limits}}, as `apply` takes them."""
    groups = {name: await _of_group(monitor, name) for name in await _groups(monitor)}
    of_drives = {}
    for entry in await drives.present(monitor):
        found = _of_drive(entry["inserted"])
        group = str(found.get("group", ""))
        if group.startswith(ASIDE):
            groups[group.removeprefix(ASIDE)] = _as_group(found)
            found = NO_LIMITS
        of_drives[drives.name_of(entry)] = found
    return {"groups": groups, "drives": of_drives}


async def apply(monitor: Monitor, limits: Limits) -> None:
    """Set them in the incoming QEMU, which has those of its command line.

    Raises:
        CommandRefused: QEMU does not take one.
        KeyError: it has no such drive.
    """
    ours = await read(monitor)
    for name, wanted in limits["groups"].items():
        if ours["groups"].get(name) != wanted:
            await _set_group(monitor, name, wanted)
    there = {drives.name_of(entry): entry for entry in await drives.present(monitor)}
    for name, wanted in limits["drives"].items():
        if ours["drives"].get(name, NO_LIMITS) != wanted:
            await _set_drive(monitor, there[name], wanted)


async def step_aside(monitor: Monitor) -> None:
    """Have drives limited in place of the throttle nodes below them. Doing it twice does no harm."""
    chains = await drives.chains(monitor)
    freed: dict[str, Limits] = {}
    for entry in await drives.present(monitor):
        for group in _groups_of(chains[drives.name_of(entry)]):
            limits = await _of_group(monitor, group)
            if any(limits[field] for field in FIELDS):
                await _set_drive(monitor, entry, _as_drive(limits, ASIDE + group))
                freed[group] = limits
    for group, limits in freed.items():  # not before all of its drives are limited
        await _set_group(monitor, group, _without_rates(limits))


async def step_back(monitor: Monitor) -> None:
    """The throttle nodes limit again, as much as their drives do now."""
    for entry in await drives.present(monitor):
        found = _of_drive(entry["inserted"])
        group = str(found.get("group", ""))
        if group.startswith(ASIDE):
            await _set_group(monitor, group.removeprefix(ASIDE), _as_group(found))
            await _set_drive(monitor, entry, NO_LIMITS)


async def _groups(monitor: Monitor) -> list[str]:
    children = await monitor.query("qom-list", path="/objects")
    return [child["name"] for child in children if child["type"] == "child<throttle-group>"]


async def _of_group(monitor: Monitor, name: str) -> Limits:
    return dict(await monitor.query("qom-get", path=f"/objects/{name}", property="limits"))


async def _set_group(monitor: Monitor, name: str, limits: Mapping[str, Any]) -> None:
    await monitor.execute("qom-set", path=f"/objects/{name}", property="limits", value=dict(limits))


async def _set_drive(monitor: Monitor, entry: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
    which = {"device": entry["device"]} if entry.get("device") else {"id": entry["qdev"]}
    await monitor.execute("block_set_io_throttle", **which, **limits)


def _of_drive(inserted: Mapping[str, Any]) -> Limits:
    """As `block_set_io_throttle` takes them."""
    names = [f"{field}{end}" for field in FIELDS.values() for end in ("", "_max", "_max_length")]
    found = {name: inserted[name] for name in (*names, "iops_size") if name in inserted}
    if not any(found.get(name) for name in NO_LIMITS):
        return dict(NO_LIMITS)
    return {**found, "group": inserted["group"]} if "group" in inserted else found


def _as_drive(limits: Mapping[str, Any], group: str) -> Limits:
    found = {}
    for theirs, ours in FIELDS.items():
        found[ours] = limits[theirs]
        if limits[f"{theirs}-max"]:
            found[f"{ours}_max"] = limits[f"{theirs}-max"]
            found[f"{ours}_max_length"] = limits[f"{theirs}-max-length"]
    if limits["iops-size"]:
        found["iops_size"] = limits["iops-size"]
    return {**found, "group": group}


def _as_group(limits: Mapping[str, Any]) -> Limits:
    found: Limits = {"iops-size": limits.get("iops_size", 0)}
    for theirs, ours in FIELDS.items():
        found[theirs] = limits.get(ours, 0)
        found[f"{theirs}-max"] = limits.get(f"{ours}_max", 0)
        found[f"{theirs}-max-length"] = limits.get(f"{ours}_max_length", 1)
    return found


def _without_rates(limits: Mapping[str, Any]) -> Limits:
    """All limits lifted; the length of a burst has to stay."""
    return {name: 0 for name in limits if not name.endswith("-length")} | {
        name: 1 for name in limits if name.endswith("-length")
    }


def _groups_of(chain: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The groups of the throttle nodes among these: a node's made-up file name has its options."""
    for node in chain:
        name = str(node["image"]["filename"])
        if node["drv"] == "throttle" and name.startswith("json:"):
            yield str(json.loads(name.removeprefix("json:"))["throttle-group"])
