"""I/O limits of a running guest: read as they are now, set at the destination, and kept out of the way of mirrors.

QEMU knows two kinds. Those of a drive (`throttling.*`, `block_set_io_throttle`) hold for the guest's own requests.
A throttle node with its group (Proxmox 9 puts one on every disk) holds for all that passes it, a mirror too: QEMU takes
no mirror of the node below it ("Need a root block node", 10.0.2), and one of a disk with 1 MiB/s copied 1 MiB/s. So
while disks are mirrored a group's limits are those of its drives: the guest is limited as before, the mirror is not.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from models.plain import SlowedDrive
from workers.qemu import drives, qom
from workers.qemu.json_text import made_up
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
Slowed = Mapping[str, SlowedDrive]
"""By the drives' names."""
NOTHING: Slowed = {}


async def read(monitor: Monitor, slowed: Slowed = NOTHING) -> Limits:
    """All limits as they are now: {"groups": {group: limits}, "drives": {drive: limits}}, as `apply` takes them.

    Of drives that are slowed for a move alone, those that are their own.
    """
    groups = {name: await _of_group(monitor, name) for name in await _groups(monitor)}
    of_drives = {}
    for entry in await drives.present(monitor):
        found = own(_of_drive(entry["inserted"]), slowed.get(drives.name_of(entry)))
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


async def slow_writes(monitor: Monitor, qdevs: Collection[str], bytes_per_s: int, slowed: Slowed) -> Slowed:
    """What is to be set, and written down before, so that the guest writes no more than this to each of these disks.

    Drives in one group have the same limits, so those that share one with a disk are among them.
    """
    there = {drives.name_of(entry): entry for entry in await drives.present(monitor)}
    before = {name: own(_of_drive(entry["inserted"]), slowed.get(name)) for name, entry in there.items()}
    groups = {before[name].get("group") for name, entry in there.items() if entry.get("qdev") in qdevs} - {None}
    wanted = {name for name in there if there[name].get("qdev") in qdevs or before[name].get("group") in groups}
    earlier = {name: slowed[name].set if name in slowed else () for name in wanted}
    return {
        name: SlowedDrive(before=before[name], set=[*earlier[name], slower(before[name], bytes_per_s)])
        for name in sorted(wanted)
    }


async def set_slowed(monitor: Monitor, slowed: Slowed) -> None:
    """Have the guest write as slowly as was set down last; a drive that somebody else has limited since stays so."""
    for entry in await drives.present(monitor):
        record, found = slowed.get(drives.name_of(entry)), _of_drive(entry["inserted"])
        if record is not None and _rates(own(found, record)) == _rates(record.before):
            await _set_drive(monitor, entry, record.set[-1])


async def give_back(monitor: Monitor, slowed: Slowed) -> None:
    """Drives that were slowed have their own limits again. What somebody else has set meanwhile stays."""
    for entry in await drives.present(monitor):
        found = _of_drive(entry["inserted"])
        before = own(found, slowed.get(drives.name_of(entry)))
        if before != found:
            await _set_drive(monitor, entry, before)


def own(found: Limits, record: SlowedDrive | None) -> Limits:
    """The limits of a drive, without those that were set for a move alone. No I/O."""
    if record is not None and any(_rates(found) == _rates(each) for each in record.set):
        return dict(record.before)
    return found


def slower(before: Limits, bytes_per_s: int) -> Limits:
    """Limits that let the guest write no more than this; all else stays. No I/O."""
    made = {name: value for name, value in before.items() if not name.startswith(("bps_wr_max", "bps_max"))}
    if both := made.get("bps", 0):  # QEMU takes none of writes beside one of both
        made |= {"bps": 0, "bps_rd": both}
        bursts = {name: before[name] for name in ("bps_max", "bps_max_length") if name in before}
        made |= {name.replace("bps", "bps_rd"): value for name, value in bursts.items()}
    made["bps_wr"] = min(filter(None, (both, before.get("bps_wr", 0), bytes_per_s)))
    return made


def _rates(limits: Limits) -> Limits:
    """What tells two apart: QEMU names groups and lengths also where nobody has."""
    return {name: value for name, value in limits.items() if value and name != "group" and not name.endswith("_length")}


async def _groups(monitor: Monitor) -> list[str]:
    return [name for name, kind in (await qom.children(monitor, qom.OBJECTS)).items() if kind == "throttle-group"]


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
    return {name: int(name.endswith("-length")) for name in limits}


def _groups_of(chain: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The groups of the throttle nodes among these: a node's made-up file name has its options."""
    for node in chain:
        options = made_up(node["image"]["filename"])
        if node["drv"] == "throttle" and options:
            yield str(options["throttle-group"])
