"""What a running guest is: everything its future host must know, read from QMP and /proc. Changes nothing."""

import asyncio
import pwd
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.host_rpc import Inspect
from models.launcher import Launcher
from models.plan import Inspection, SourceDisk, Topology
from workers import attestation, files, policy, processes
from workers.files import UnsafePath
from workers.launcher import found, stillness
from workers.processes import Process
from workers.qemu import block, cpu, known_bugs, topology
from workers.qemu.disks import disk_refusals, source_disks, unnamed_images
from workers.qemu.monitor import CommandRefused, Monitor, MonitorLost, connect
from workers.qemu.refusals import command_line_refusals

CAPABILITIES = ("pause-before-switchover", "return-path", "events")
"""The switchover is not safe without these."""
NO_UUID = "00000000-0000-0000-0000-000000000000"
"""What `query-uuid` answers for a machine that was started without one."""


async def inspect(question: Inspect, settings: Settings) -> Inspection:
    """Describe the guest behind a QMP socket.

    Raises:
        PreconditionFailed: no monitor answers there, or it is not a QEMU.
    """
    qmp = question.qmp
    try:
        async with connect(qmp) as monitor:
            return await _describe(monitor, qmp, settings)
    except MonitorLost as error:
        raise PreconditionFailed(f"{settings.host}: {error}") from error


async def _describe(monitor: Monitor, qmp: str, settings: Settings) -> Inspection:
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
        _disks(monitor, identity.argv, settings),
        _blockers(monitor, identity.argv),
    )
    forbidden = _forbidden(identity, settings)
    version = known_bugs.version(told)
    accel: known_bugs.Accel = "kvm" if kvm["enabled"] else "tcg"
    seen = Inspection(
        pid=identity.process.pid,
        started=identity.process.started,
        process=processes.identity(identity.process),
        argv=tuple(identity.argv),
        exe=identity.exe,
        pidfile=identity.pidfile,
        uuid=uuid["UUID"] if uuid["UUID"] != NO_UUID else None,
        qmp=qmp,
        qemu_version=version,
        accel=accel,
        machine_type=str(machine_type).removesuffix("-machine"),
        runstate=status["status"],
        memory_bytes=_memory(memory),
        cpus=len(cpus),
        devices=tuple(devices),
        topology=layout,
        disks=disks,
        refusals=(*forbidden, *refusals, *blockers),
        warnings=tuple(known_bugs.warnings(version, accel, identity.argv)),
        launcher=await asyncio.to_thread(_launcher, identity.process, settings),
    )
    return seen if forbidden else attestation.attested(seen, settings)


def _launcher(qemu: Process, settings: Settings) -> Launcher:
    """Who launched it. What an administrator's program can tell to keep still does not stay."""
    launcher = found.launcher_of(qemu)
    return launcher.model_copy(update={"stays": None}) if stillness.program(settings) else launcher


@dataclass(frozen=True, kw_only=True)
class _Identity:
    """The process of a QEMU, and how it was started."""

    process: Process
    argv: list[str]
    exe: str
    pidfile: str | None


def _process(pid: int) -> _Identity:
    """The process that listens on the socket, from /proc."""
    alive = processes.process(pid)
    if alive is None:
        raise PreconditionFailed(f"the process behind the socket (pid {pid}) has ended")
    argv = [word.decode() for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    exe = str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)")
    if "qemu-system" not in exe and "qemu-kvm" not in exe:
        raise PreconditionFailed(f"the process behind the socket is {exe}, not a QEMU")
    pidfile = next((after for word, after in pairwise(argv) if word == "-pidfile"), None)
    return _Identity(process=alive, argv=argv, exe=exe, pidfile=pidfile)


def _forbidden(identity: _Identity, settings: Settings) -> list[str]:
    """Why this host does not vouch for the guest: anybody may call a program of theirs a QEMU."""
    rules, uid = policy.of(settings), Path(f"/proc/{identity.process.pid}").stat().st_uid
    user = str(uid)
    with suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
    found = []
    if not rules.may_run(identity.exe):
        found.append(f"it is run by {identity.exe}, which {rules.name} on {settings.host} does not list under `qemu`")
    if not rules.may_be(uid, user):
        found.append(f"it is run by the user {user}, whom {rules.name} on {settings.host} does not list under `users`")
    return found


def _memory(summary: dict[str, int]) -> int:
    return summary["base-memory"] + summary.get("plugged-memory", 0)


async def machine(monitor: Monitor) -> Topology:
    """The machine's CPU, devices and RAM in a form that can be compared across hosts."""
    ramblocks = await monitor.query("x-query-ramblock")
    return Topology(
        cpu=await cpu.offered(monitor),
        qtree=topology.normalise_qtree(await monitor.hmp("info qtree")),
        ramblocks=topology.normalise_ramblocks(ramblocks["human-readable-text"]),
    )


async def _disks(monitor: Monitor, argv: list[str], settings: Settings) -> tuple[tuple[SourceDisk, ...], list[str]]:
    replies = {
        "query_block": await monitor.query("query-block"),
        "named_block_nodes": await monitor.query("query-named-block-nodes"),
        "blockstats": await monitor.query("query-blockstats"),
    }
    found = source_disks(**replies)
    refusals = disk_refusals(**replies, block_jobs=await monitor.query("query-block-jobs"))
    refusals += unnamed_images(found, argv)
    refusals += _behind_links(found)
    refusals += command_line_refusals(argv, source_root=str(settings.guest_root))
    return found, refusals


def _behind_links(disks: Sequence[SourceDisk]) -> list[str]:
    """After the move the images are renamed, through no link of anybody else's."""
    refusals = []
    for disk in disks:
        try:
            files.status(Path(disk.path))
        except UnsafePath as error:
            refusals.append(str(error))
    return refusals


async def _blockers(monitor: Monitor, argv: list[str]) -> list[str]:
    """The reasons of QEMU itself, or of its present state, against a migration."""
    migrate = await monitor.query("query-migrate")
    found = [f"QEMU reports: {reason}" for reason in migrate.get("blocked-reasons", [])]
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
