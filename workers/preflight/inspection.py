"""What a running guest is: everything its future host must know, read from QMP and /proc. Changes nothing."""

import asyncio
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models import preflight
from models.activity import Activity
from models.host_rpc import Inspect
from models.launcher import Launcher
from models.plan import BackingImage, Chain, Inspection, SourceDisk, Topology
from models.preflight import Check
from workers import files, hooks
from workers.files import UnsafePath
from workers.guest import activity, monitors
from workers.images import links, manifest
from workers.launcher import found, inhibitor
from workers.media import listing
from workers.preflight import checks, handed_images, live_command_line, open_images
from workers.preflight.checks.kind import RESTART
from workers.preflight.handed_images import HandedImages
from workers.preflight.live_command_line import LiveCommandLine
from workers.process import accounts, execution, processes, qemus, sockets, taps, tpm, vcpus
from workers.process.processes import Process
from workers.process.taps import HandedOver
from workers.qemu import (
    block,
    cpu,
    inline_secrets,
    known_bugs,
    plugged,
    present_media,
    process_state,
    qom,
    topology,
)
from workers.qemu.disks import (
    ReadOnlyImage,
    Replies,
    disk_checks,
    drives,
    keys_given_later,
    named_data_files,
    nodes_in_use,
    read_only_images,
    source_disks,
    unnamed_images,
)
from workers.qemu.monitor import Monitor, MonitorLost
from workers.qemu.options import command_words, parse_command_line
from workers.qemu.present_media import Drive
from workers.qemu.refusals import command_line_refusals
from workers.storage import devices
from workers.streams import operator_certificates
from workers.trust import attestation, policy

CAPABILITIES = ("pause-before-switchover", "return-path", "events")
"""The switchover is not safe without these."""
MEASURED_WITHIN_S = 5.0
"""All disks together: whoever wants to move the guest waits for it."""
NO_UUID = "00000000-0000-0000-0000-000000000000"
"""What `query-uuid` answers for a machine that was started without one."""


async def inspect(question: Inspect, settings: Settings) -> Inspection:
    """Describe the guest behind a QMP socket.

    Raises:
        PreconditionFailed: no monitor answers there, or it is not a QEMU.
    """
    owner = await asyncio.to_thread(sockets.listener, question.qmp)
    argv = _argv(owner.pid) if owner is not None else []
    try:
        async with monitors.connected(argv, question.qmp) as (qmp, monitor):
            return await _describe(monitor, question.model_copy(update={"qmp": qmp}), settings)
    except MonitorLost as error:
        if owner is not None and (seen := qemus.qemu_of(owner.pid)) is not None and seen.stopped:
            why = f"a signal has stopped QEMU (pid {owner.pid}): `kill -CONT {owner.pid}`"
            raise PreconditionFailed(f"{settings.host}: {why}") from error
        others = await asyncio.to_thread(lambda: monitors.why_none(argv or _meant(question.qmp, settings)))
        raise PreconditionFailed(f"{settings.host}: {error}{f' ({others})' if others else ''}") from error


def _meant(qmp: str, settings: Settings) -> list[str]:
    """The command line of the QEMU that is to listen there, and does not do so yet."""
    lines = (_argv(qemu.process.pid) for qemu in qemus.running(settings))
    return next((argv for argv in lines if any(one.address == qmp for one in monitors.listening(argv))), [])


def _argv(pid: int) -> list[str]:
    alive = processes.process(pid)
    return live_command_line.read(alive).argv if alive is not None else []


async def _describe(monitor: Monitor, question: Inspect, settings: Settings) -> Inspection:
    identity, secrets = await _identified(monitor, question.qmp, settings)
    look = asyncio.gather(
        _facts(monitor),
        block.device_names(monitor),
        machine(monitor),
        _disks(monitor, identity, settings),
        _blockers(monitor, identity.argv),
        process_state.told(monitor, identity.argv),
    )
    known, did = await asyncio.gather(look, _activity(monitor, question, settings))
    facts, devices, layout, present, blockers, unsaved = known
    emulator, strange = await asyncio.to_thread(tpm.read, present.argv)
    needed = await asyncio.to_thread(
        listing.listed,
        present.argv,
        identity.process,
        present.disks,
        present.media,
        (question.qmp, identity.pidfile, *tpm.places(emulator)),
        settings,
        question.chain,
        secrets,
    )
    until = time.monotonic() + MEASURED_WITHIN_S
    measure = (asyncio.to_thread(measured, disk, question.chain, until) for disk in present.disks if question.moves)
    disks = await asyncio.gather(*measure) or present.disks
    launcher = await asyncio.to_thread(_launcher, identity.process, settings)
    stays = [checks.process.LAUNCHER_STAYS.found(launcher.stays)] if launcher.stays else []
    unhooked = hooks.missing(policy.of(settings).hooks, question.hooks)
    no_hooks = [checks.rules.NO_HOOKS.found(unhooked)] if unhooked else []
    forbidden = _forbidden(identity, settings)
    unproven = [checks.network.CERTIFICATE.found(why) for why in operator_certificates.own_faults(settings)]
    against = [*forbidden, *no_hooks, *unproven, *present.checks, *strange, *needed.checks, *blockers, *stays]
    bugs = known_bugs.warnings(facts["qemu_version"], facts["accel"], identity.argv)
    told = checks.told_once([*against, *process_state.untold(identity.argv), *unsaved, *bugs])
    seen = Inspection(
        **facts,
        pid=identity.process.pid,
        started=identity.process.started,
        process=processes.identity(identity.process),
        job=qemus.job_of(identity.process),
        argv=tuple(present.argv),
        exe=identity.exe,
        pidfile=identity.pidfile,
        qmp=question.qmp,
        devices=tuple(devices),
        started_as=execution.read(identity.process, identity.argv, identity.handed, await vcpus.threads(monitor)),
        tpm=emulator,
        topology=layout,
        disks=tuple(disks),
        files=tuple(needed.files.values()),
        folders=tuple(needed.folders.values()),
        refusals=preflight.refusals(told),
        warnings=preflight.warnings(told),
        checks=checks.completed("source", told),
        launcher=launcher,
        certificates=operator_certificates.shown(settings),
        address=settings.address,
        activity=did,
    )
    return seen if forbidden else attestation.attested(seen, settings)


async def _facts(monitor: Monitor) -> dict[str, Any]:
    """What QEMU says of its machine, by the fields of `Inspection`."""
    told, kvm, machine_type, status, memory, cpus, uuid = await asyncio.gather(
        monitor.query("query-version"),
        monitor.query("query-kvm"),
        monitor.query("qom-get", path="/machine", property="type"),
        monitor.query("query-status"),
        monitor.query("query-memory-size-summary"),
        monitor.query("query-cpus-fast"),
        monitor.query("query-uuid"),
    )
    return {
        "qemu_version": known_bugs.version(told),
        "accel": "kvm" if kvm["enabled"] else "tcg",
        "machine_type": str(machine_type).removesuffix("-machine"),
        "runstate": status["status"],
        "memory_bytes": memory["base-memory"] + memory.get("plugged-memory", 0),
        "cpus": len(cpus),
        "uuid": uuid["UUID"] if uuid["UUID"] != NO_UUID else None,
    }


async def _activity(monitor: Monitor, question: Inspect, settings: Settings) -> Activity | None:
    if not question.looks:
        return None
    memory = await monitor.query("query-memory-size-summary")
    return await activity.seen(monitor, memory["base-memory"], settings.look.total_seconds())


def _launcher(qemu: Process, settings: Settings) -> Launcher:
    """Who launched it. What an administrator's program can tell not to start the guest does not stay."""
    launcher = found.launcher_of(qemu)
    return launcher.model_copy(update={"stays": None}) if inhibitor.program(settings) else launcher


@dataclass(frozen=True, kw_only=True)
class _Identity:
    """The process of a QEMU, and how it was started."""

    process: Process
    started: LiveCommandLine
    exe: str
    pidfile: str | None
    handed: HandedOver = taps.NOTHING

    @property
    def argv(self) -> list[str]:
        """Its command line, which says the same on another host."""
        return self.started.argv

    def saying(self, argv: list[str], images: HandedImages) -> "_Identity":
        """As if it had been started with another command line, and had opened these images itself."""
        started = replace(self.started, argv=handed_images.by_path(argv, images), handed=images)
        return replace(self, started=started, handed=taps.handed_over(self.process, started.argv))


async def _identified(monitor: Monitor, qmp: str, settings: Settings) -> tuple[_Identity, dict[str, bytes]]:
    """The guest's process with the command line that makes it as it is now, and the secrets that stood on it."""
    identity = _process(monitor.pid)
    secrets = inline_secrets.contents(identity.argv)
    argv = inline_secrets.in_files(identity.argv, _place(identity, qmp, settings))
    now = await plugged.as_it_is_now(monitor, argv)
    images = handed_images.read(identity.process, await monitor.query("query-fdsets"))
    return identity.saying(now, images), secrets


def _process(pid: int) -> _Identity:
    """The process that listens on the socket, from /proc."""
    alive = processes.process(pid)
    if alive is None:
        raise PreconditionFailed(f"the process behind the socket (pid {pid}) has ended")
    exe = str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(processes.DELETED)
    if "qemu-system" not in exe and "qemu-kvm" not in exe:
        raise PreconditionFailed(f"the process behind the socket is {exe}, not a QEMU")
    started = live_command_line.read(alive)
    pidfile = next((after for word, after in pairwise(started.argv) if word == "-pidfile"), None)
    return _Identity(process=alive, started=started, exe=exe, pidfile=pidfile)


def _place(identity: _Identity, qmp: str, settings: Settings) -> str:
    """A path below the guest root that is this guest's alone."""
    below = (path for path in (qmp, identity.pidfile) if path and Path(path).is_relative_to(settings.guest_root))
    return next(below, str(settings.guest_root / f"qemu-{identity.process.pid}-{identity.process.started}"))


def _forbidden(identity: _Identity, settings: Settings) -> list[Check]:
    """Why this host does not vouch for the guest: anybody may call a program of theirs a QEMU."""
    rules, uid = policy.of(settings), Path(f"/proc/{identity.process.pid}").stat().st_uid
    user, found = accounts.user_name(uid), []
    if not rules.may_run(identity.exe):
        seen = f"it is run by {identity.exe}, which {rules.name} on {settings.host} does not list under `qemu`"
        found.append(checks.process.PROGRAM_NOT_ALLOWED.found(seen))
    if not rules.may_be(uid, user):
        seen = f"it is run by the user {user}, whom {rules.name} on {settings.host} does not list under `users`"
        found.append(checks.process.USER_NOT_ALLOWED.found(seen))
    return found


async def machine(monitor: Monitor) -> Topology:
    """The machine's CPU, devices and RAM in a form that can be compared across hosts."""
    return Topology(
        cpu=await cpu.offered(monitor),
        qtree=topology.normalise_qtree(await monitor.hmp("info qtree")),
        ramblocks=topology.normalise_ramblocks(await monitor.hmp("info ramblock")),
    )


@dataclass(frozen=True)
class _Present:
    """What is in a guest's drives now."""

    argv: list[str]
    """The command line that says so."""
    disks: tuple[SourceDisk, ...]
    media: tuple[ReadOnlyImage, ...]
    """What cannot be written."""
    checks: list[Check]


async def _disks(monitor: Monitor, seen: _Identity, settings: Settings) -> _Present:
    replies = await Replies.of(monitor)
    called = source_disks(replies)
    named = [_placed(disk, seen) for disk in called]
    told = disk_checks(replies, await monitor.query("query-block-jobs"))
    media = [
        replace(medium, path=seen.started.place(medium.path), chain=_placed_chain(medium.chain, seen))
        for medium in read_only_images(replies)
    ]
    floppies = await present_media.floppy_types(monitor)
    argv = _with_present_media(seen, drives(replies), named, media, floppies)
    used = nodes_in_use(replies.blockstats)
    argv = present_media.without_left_backing(argv, used)
    unused = present_media.unused_nodes(argv, used)
    argv = [argv[0], *command_words(option for option in parse_command_line(argv) if option not in unused)]
    argv, without_path = handed_images.left(argv, seen.started.handed)
    told += without_path
    told += [checks.disks.UNUSED_NODE.of(option.text) for option in unused]
    told += unnamed_images([*named, *media], argv)
    told += keys_given_later(named, argv)
    told += named_data_files(named, argv)
    found = tuple(_followed(disk, seen.process, settings, told) for disk in named)
    opened_by_name = [disk.path for disk in called if disk.path not in seen.started.handed.paths]
    told += open_images.elsewhere(seen.process, found, argv) or [
        *open_images.swapped(found),
        *open_images.lost(seen.process, opened_by_name, seen.started.said),
    ]
    rules = policy.of(settings)
    elsewhere = {disk.path for disk in found if disk.block_device or rules.may_write(disk.path)}
    of_line = command_line_refusals(
        argv, source_root=str(settings.guest_root), images=elsewhere, descriptors=seen.handed.looked_at
    )
    told += [*seen.started.checks, *seen.handed.refusals]
    told += [check for check in of_line if check.name != checks.disks.REMOTE_IMAGE.name]  # the drives tell all of that
    return _Present(argv, found, tuple(media), told)


def _placed(disk: SourceDisk, seen: _Identity) -> SourceDisk:
    """With full paths: QEMU has those below an image that it was given by a relative path relative as well."""
    place = seen.started.place
    placed = {"path": place(disk.path), "chain": _placed_chain(disk.chain, seen)}
    return disk.model_copy(update={**placed, "data_file": place(disk.data_file) if disk.data_file else None})


def _placed_chain(chain: Sequence[BackingImage], seen: _Identity) -> tuple[BackingImage, ...]:
    return tuple(level.model_copy(update={"path": seen.started.place(level.path)}) for level in chain)


def _with_present_media(
    seen: _Identity,
    present: Sequence[Drive],
    disks: Sequence[SourceDisk],
    media: Sequence[ReadOnlyImage],
    floppies: Mapping[int, str],
) -> list[str]:
    placed = [replace(drive, path=drive.path and seen.started.place(drive.path)) for drive in present]
    argv = present_media.as_it_is_now(seen.argv, placed, floppies)
    chains = [*(disk.chain for disk in disks), *(medium.chain for medium in media)]
    below = {level.path for chain in chains for level in chain}
    only_read = (below | {medium.path for medium in media}) - {disk.path for disk in disks}
    return present_media.opened_read_only(argv, only_read)


def _followed(disk: SourceDisk, qemu: Process, settings: Settings, told: list[Check]) -> SourceDisk:
    """The disk with the place of its very file. After the move that is renamed, through no link of anybody else's.

    A block device keeps the name that it has, and takes all of its room, whatever was written to it.
    """
    if not disk.path.startswith("/"):
        return disk  # refused for that
    try:
        if devices.is_one(Path(disk.path)):
            device = {"block_device": True, "allocated_bytes": disk.virtual_size_bytes}
            return disk.model_copy(update={**device, **_owned(Path(disk.path), qemu)})
        path, through = links.followed(disk.path, settings.guest_root)
        files.status(Path(path))
    except UnsafePath as error:
        told.append(checks.disks.BEHIND_LINK.found(str(error)))
        return disk
    found = disk.model_copy(update=_owned(Path(path), qemu))
    return found.model_copy(update={"path": path, "named": disk.path, "links": tuple(through)}) if through else found


def measured(disk: SourceDisk, chain: Chain, until: float) -> SourceDisk:
    """The disk with what a copy of it takes, by what its QEMU has written down so far; as it is if that lasts longer
    than until then, by the monotonic clock.
    """
    if disk.format != "qcow2" or disk.block_device or disk.data_file is not None or disk.allocated_bytes is None:
        return disk
    below = [(image.path, image.format) for image in disk.chain] if chain == "flatten" else []
    data = 0
    try:
        for path, of in [(disk.path, "qcow2"), *below]:
            level = manifest.data_bytes(files.followed(Path(path)), of, max(until - time.monotonic(), 0))
            if level is None:
                return disk  # the others are not measured in vain
            data += level
    except (OSError, UnsafePath):
        return disk  # refused for that
    copied = max(disk.allocated_bytes, min(data, disk.virtual_size_bytes))
    whole = not disk.chain and Path(disk.path).stat().st_size >= disk.virtual_size_bytes
    laid_out = whole and disk.allocated_bytes <= disk.virtual_size_bytes // 2
    return disk.model_copy(update={"copied_bytes": copied, "laid_out": laid_out})


def _owned(image: Path, qemu: Process) -> dict[str, str | int]:
    """Owner, group and mode of an image. One that QEMU's user could not open by these is that user's at the
    destination: it was handed over open, or has an access list.
    """
    with suppress(OSError):
        there = image.stat()
        of = there if processes.permitted(qemu, there, stat.S_IWOTH) else Path(f"/proc/{qemu.pid}").stat()
        owner = {"owner": accounts.user_name(of.st_uid), "group": accounts.group_name(of.st_gid)}
        return {**owner, "mode": there.st_mode & 0o777}
    return {}


async def _blockers(monitor: Monitor, argv: list[str]) -> list[Check]:
    """The reasons of QEMU itself, or of its present state, against a migration."""
    migrate = await monitor.query("query-migrate")
    found = [_blocked(reason) for reason in migrate.get("blocked-reasons", [])]
    status = (await monitor.query("query-status"))["status"]
    if status != "running":
        found.append(checks.machine.NOT_RUNNING.found(f"the guest is {status}: only a running guest can be moved"))
    if migrate.get("status") in {"setup", "active", "pre-switchover", "device"}:
        found.append(checks.machine.MIGRATION_UNDER_WAY.found("another migration of this guest is under way"))
    offered = {entry["capability"] for entry in await monitor.query("query-migrate-capabilities")}
    missing = [name for name in CAPABILITIES if name not in offered]
    found += [checks.machine.QEMU_TOO_OLD.found(f"this QEMU is too old: it has no {name}") for name in missing]
    named, anonymous = await qom.children(monitor, qom.PERIPHERAL), await qom.children(monitor, qom.ANONYMOUS)
    cpus = len(await monitor.query("query-cpus-fast"))
    return found + topology.hot_plugged(named.keys(), anonymous.values(), argv) + topology.unplugged_cpus(cpus, argv)


def _blocked(reason: str) -> Check:
    a_disk = "a disk can be attached by virtio-blk or virtio-scsi"
    remedy = f"{RESTART}: {a_disk}" if reason.endswith("/nvme") else None
    return checks.machine.BLOCKED_BY_QEMU.found(f"QEMU reports: {reason}", remedy=remedy)
