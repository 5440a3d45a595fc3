"""What a running guest is: everything its future host must know, read from QMP and /proc. Changes nothing."""

import asyncio
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.base import Document
from workers import processes
from workers.qemu import block, cpu, known_bugs, topology
from workers.qemu.disks import disk_refusals, source_disks, unnamed_images
from workers.qemu.monitor import CommandRefused, Monitor, MonitorLost, connect
from workers.qemu.refusals import command_line_refusals

CAPABILITIES = ("pause-before-switchover", "return-path", "events")
"""Without these the switchover cannot be made safe."""
NO_UUID = "00000000-0000-0000-0000-000000000000"
"""What `query-uuid` answers for a machine that was started without one."""


async def inspect(question: Document, settings: Settings) -> Document:
    """Describe the guest behind a QMP socket; `question` is {"qmp": path}.

    Answers {"pid", "started", "process": see `processes.identity`, "uuid": null if none is set, "qmp", "argv", "exe",
    "pidfile", "version", "accel", "machine_type", "runstate", "memory_bytes", "cpus", "devices", "topology", "disks",
    "refusals", "warnings"}; `refusals` are sentences why it cannot be moved now.

    Raises:
        PreconditionFailed: nobody answers there, or it is not a QEMU.
    """
    qmp = question["qmp"]
    try:
        async with connect(qmp) as monitor:
            return await _describe(monitor, qmp, settings)
    except MonitorLost as error:
        raise PreconditionFailed(f"{settings.host}: {error}") from error


async def _describe(monitor: Monitor, qmp: str, settings: Settings) -> Document:
    identity = _process(monitor.pid)
    told, kvm, machine_type, status, memory, cpus, uuid = await asyncio.gather(
        monitor.query("query-version"),
        monitor.query("query-kvm"),
        monitor.query("qom-get", path="/machine", property="type"),
        monitor.query("query-status"),
        monitor.query("query-memory-size-summary"),
        monitor.query("query-cpus-fast"),
        monitor.query("query-uuid"),
    )
    devices, layout, (disks, refusals), blockers = await asyncio.gather(
        block.device_names(monitor),
        machine(monitor),
        _disks(monitor, identity["argv"], settings),
        _blockers(monitor, identity["argv"]),
    )
    version = known_bugs.version(told)
    accel: known_bugs.Accel = "kvm" if kvm["enabled"] else "tcg"
    return {
        **identity,
        "uuid": uuid["UUID"] if uuid["UUID"] != NO_UUID else None,
        "qmp": qmp,
        "version": list(version),
        "accel": accel,
        "machine_type": str(machine_type).removesuffix("-machine"),
        "runstate": status["status"],
        "memory_bytes": _memory(memory),
        "cpus": len(cpus),
        "devices": devices,
        "topology": layout,
        "disks": disks,
        "refusals": refusals + blockers,
        "warnings": known_bugs.warnings(version, accel, identity["argv"]),
    }


def _process(pid: int) -> dict[str, Any]:
    """The process that listens on the socket, from /proc."""
    alive = processes.process(pid)
    if alive is None:
        raise PreconditionFailed(f"the process behind the socket (pid {pid}) has ended")
    argv = [word.decode() for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    exe = str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)")
    if "qemu-system" not in exe and "qemu-kvm" not in exe:
        raise PreconditionFailed(f"the process behind the socket is {exe}, not a QEMU")
    pidfile = next((after for word, after in pairwise(argv) if word == "-pidfile"), None)
    known = {"pid": pid, "started": alive.started, "process": processes.identity(alive)}
    return {**known, "argv": argv, "exe": exe, "pidfile": pidfile}


def _memory(summary: dict[str, int]) -> int:
    return summary["base-memory"] + summary.get("plugged-memory", 0)


async def machine(monitor: Monitor) -> Document:
    """The machine's CPU, devices and RAM in a form that can be compared across hosts."""
    return {
        "cpu": await cpu.offered(monitor),
        "qtree": list(topology.normalise_qtree(await monitor.hmp("info qtree"))),
        "ramblocks": list(
            topology.normalise_ramblocks((await monitor.query("x-query-ramblock"))["human-readable-text"])
        ),
    }


async def _disks(monitor: Monitor, argv: list[str], settings: Settings) -> tuple[list[Document], list[str]]:
    replies = {
        "query_block": await monitor.query("query-block"),
        "named_block_nodes": await monitor.query("query-named-block-nodes"),
        "blockstats": await monitor.query("query-blockstats"),
    }
    found = source_disks(**replies)
    refusals = disk_refusals(**replies, block_jobs=await monitor.query("query-block-jobs"))
    refusals += unnamed_images(found, argv)
    refusals += command_line_refusals(argv, source_root=str(settings.guest_root))
    return [asdict(disk) for disk in found], refusals


async def _blockers(monitor: Monitor, argv: list[str]) -> list[str]:
    """What QEMU itself, or its present state, has against a migration."""
    migrate = await monitor.query("query-migrate")
    found = [f"QEMU says: {reason}" for reason in migrate.get("blocked-reasons", [])]
    status = (await monitor.query("query-status"))["status"]
    if status != "running":
        found.append(f"the guest is {status}: only a running guest can be moved, let it go on first")
    if migrate.get("status") in {"setup", "active", "pre-switchover", "device"}:
        found.append("another migration of this guest is under way")
    offered = {entry["capability"] for entry in await monitor.query("query-migrate-capabilities")}
    found += [f"this QEMU is too old: it has no {name}" for name in CAPABILITIES if name not in offered]
    children = [await _children(monitor, where) for where in ("/machine/peripheral", "/machine/peripheral-anon")]
    return found + topology.hot_plugged(children[0], children[1], argv)


async def _children(monitor: Monitor, path: str) -> list[dict[str, Any]]:
    try:
        return list(await monitor.query("qom-list", path=path))
    except CommandRefused:
        return []  # no such container: no such devices
