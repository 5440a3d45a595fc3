"""Could this guest run here? What must be true of the destination, and how the guest would be started there."""

import asyncio
import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from drover import words
from drover.errors import HostRefused, PreconditionFailed
from drover.settings import Settings
from models import preflight
from models.host_rpc import PlanDestination
from models.plan import DestinationPlan, Inspection, PlannedDisk, Statement
from models.preflight import Check, Verdict
from workers import files, hooks
from workers.files import UnsafePath
from workers.guest import run_files
from workers.images import links, manifest, way_back
from workers.launcher import keep_out, units
from workers.media import destination
from workers.preflight import checks, derivation, trial, writable
from workers.process import accounts, networks, processes
from workers.process.machine import machine, memory_bytes
from workers.process.processes import Process
from workers.process.sockets import listens
from workers.qemu import cpu, permissions, ports
from workers.step import JobDirectory
from workers.storage import making, room
from workers.streams import operator_certificates
from workers.trust import attestation, policy
from workers.trust.policy import HostPolicy

SOCKET_PATH_LIMIT = 107
"""Longest path of a Unix socket (unix(7))."""


async def plan_destination(question: PlanDestination, settings: Settings) -> DestinationPlan:
    """Check this host, and return how the guest would run here.

    Raises:
        PreconditionFailed: it cannot; all that is in the way, each with what to do.
    """
    cannot = f"{settings.host} cannot take {question.guest}: "
    try:
        told, rules = attestation.proven(question.source, settings), policy.of(settings)
    except PreconditionFailed as error:
        raise PreconditionFailed(f"{cannot}{error}") from error
    source = told.inspection
    plan, problems = derivation.derive(told, settings, rules, question.chain, question.layout)
    if problems:
        raise _refused(cannot, source, problems, settings)
    needed, against = await asyncio.to_thread(destination.looked_up, plan.files, settings, rules, question.guest)
    plan = plan.model_copy(update={"files": needed})
    problems += against + _programs() + _memory(source.memory_bytes)
    choice = await asyncio.to_thread(way_back.expected, settings, question.guest, source, plan.disks)
    found = {"way_back": choice.way and choice.way.job, "way_back_bytes": choice.changed_bytes}
    plan = plan.model_copy(update={**found, "no_way_back": choice.why})
    problems += _images(plan, settings, rules, question)
    problems += _socket(plan.qmp) + _address(settings.address, told.machine)
    problems += _same_memory(plan, source)
    problems += [] if problems else derivation.in_the_way(plan)
    problems += _ports(plan.argv) + _wanted(question, rules) + _certificates(settings, told)
    problems += await asyncio.to_thread(writable.missing, plan, source.started_as, rules, settings.guest_root)
    problems += await asyncio.to_thread(networks.missing, plan.argv, _user(source))
    missing = cpu.missing(source.topology.cpu, cpu.offered_here(plan.qemu, plan.argv))
    problems += [checks.machine.CPU.found(sentence) for sentence in missing]
    if question.tried and not problems:
        problems += await trial.tried(source, plan, settings)
    if problems:
        raise _refused(cannot, source, problems, settings)
    warned = [*plan.checks, *networks.warnings(plan.argv)]
    warned += await asyncio.to_thread(units.limits_left, source.launcher)
    told_of = {"warnings": preflight.warnings(warned), "checks": checks.completed("destination", warned)}
    return plan.model_copy(update=told_of)


def _refused(cannot: str, source: Inspection, problems: Sequence[Check], settings: Settings) -> HostRefused:
    """What follows from what the source has against it already is no reason of its own."""
    there = [check for check in source.checks if check.verdict is Verdict.REFUSE]
    found = [check for check in checks.told_once([*there, *problems]) if check not in there]
    return HostRefused(cannot + "; ".join(preflight.refusals(found or there)), host=settings.host, checks=found)


def _wanted(question: PlanDestination, rules: HostPolicy) -> list[Check]:
    """What a policy of moves names and this host does not have."""
    why, check = hooks.missing(rules.hooks, question.hooks), question.check
    found = [checks.rules.NO_HOOKS_THERE.found(why)] if why else []
    if check is not None and check not in rules.file.checks:
        found.append(checks.rules.NO_CHECK_THERE.found(f"there is no check {check} in {rules.name}"))
    return found


def _certificates(settings: Settings, told: Statement) -> list[Check]:
    own = operator_certificates.own_faults(settings)
    between = operator_certificates.faults_between(settings, told.host, told.inspection.certificates)
    return [checks.network.CERTIFICATE_THERE.found(why) for why in (*own, *between)]


def _programs() -> list[Check]:
    return [
        checks.disks.NO_TOOLS.found(f"there is no {name} here")
        for name in ("qemu-img", "qemu-storage-daemon")
        if shutil.which(name) is None
    ]


def _memory(needed: int) -> list[Check]:
    free = memory_bytes("MemAvailable") - room.RESERVE_BYTES
    if needed <= free:
        return []
    missing = words.size(needed - max(free, 0))
    seen = f"{words.size(needed)} of memory are needed and {words.size(free)} are free, {missing} too little"
    return [checks.machine.NO_MEMORY.found(seen)]


def _images(plan: DestinationPlan, settings: Settings, rules: HostPolicy, question: PlanDestination) -> list[Check]:
    disks = [disk for disk in plan.disks if not disk.destination_device]
    problems = [checks.disks.NO_LVM.found(why) for why in making.programs(plan.disks, rules)]
    if not problems:
        factors = room.thin_factors(settings, question.thin_factor)
        devices = making.device_problems(plan.disks, settings, rules, question.layout, factors)
        problems = [checks.disks.TARGET_DEVICE.found(why) for why in devices]
    places = (_place(disk, settings, rules) for disk in disks)
    problems += [checks.disks.IMAGE_EXISTS.found(why) for why in places if why]
    try:
        made = disks if plan.way_back is None else []
        room.check(made, settings, needed_files=plan.files, thin_factor=question.thin_factor, copies_give_way=True)
    except PreconditionFailed as error:
        problems.append(checks.disks.NO_ROOM.found(str(error)))
    impossible = making.impossible_files(disks, plan.files, _others(plan, settings.guest_root))
    return problems + [checks.disks.IMAGE_EXISTS.found(seen, remedy=remedy) for seen, remedy in impossible.items()]


def _others(plan: DestinationPlan, root: Path) -> Iterator[str]:
    """What takes an inode each besides images and files: folders, and what QEMU makes."""
    yield from (folder.path for folder in plan.folders)
    yield from (made.path for made in permissions.written(plan.argv) if Path(made.path).is_relative_to(root))


def _place(disk: PlannedDisk, settings: Settings, rules: HostPolicy) -> str | None:
    """What is against making an image there."""
    try:
        path = making.place(disk.destination_path, settings, rules)
        if keep_out.stands_at(settings, path):
            return keep_out.launcher_left(settings, path)
        there = files.status(path)
        if problems := links.in_the_way(disk.links):
            return "; ".join(problems)
    except UnsafePath as error:
        return str(error)
    return None if there is None else manifest.in_the_way(path, JobDirectory.all_below(settings))


def _socket(qmp: str) -> list[Check]:
    if len(qmp) > SOCKET_PATH_LIMIT:
        return [
            checks.process.SOCKET.found(
                f"the QMP socket's path {qmp} would be too long", remedy="use a shorter guest root"
            )
        ]
    if Path(qmp).exists() and not _dead(Path(qmp)):
        return [checks.process.SOCKET.found(f"{qmp} exists already", remedy="if no guest uses it, delete it")]
    return []


def _dead(socket: Path) -> bool:
    """A QEMU that was killed, or did not start, left it: the next one replaces it."""
    return socket.is_socket() and not listens(socket)


def _same_memory(plan: DestinationPlan, source: Inspection) -> list[Check]:
    """Of two hosts of one machine: the guest's process is one of this host as well."""
    guest = Process(source.pid, source.started)
    there = run_files.in_the_way(made for made in permissions.written(plan.argv) if made.folder)
    both = (path for path in there if guest.alive and processes.has_open(guest, path.stat()))
    return [checks.machine.SAME_MEMORY.of(str(path)) for path in both]


def _user(source: Inspection) -> str:
    """As whom its QEMU would be started here."""
    there = source.started_as
    return there.user if there is not None and os.geteuid() == 0 else accounts.user_name(os.geteuid())


def _ports(argv: Sequence[str]) -> list[Check]:
    found = ((port, ports.taken(port)) for port in ports.ports(argv))
    silent = (port for port in ports.connected(argv) if ports.taken(port) is None)
    return [checks.network.PORT_TAKEN.found(f"{port.option.text}: {why}") for port, why in found if why] + [
        checks.network.NOBODY_LISTENS.found(f"{port.option.text}: nothing listens at {port.host}:{port.number} here")
        for port in silent
    ]


def _address(address: str, source_machine: str) -> list[Check]:
    """The address where this host listens must reach this host from the source as well."""
    if source_machine == machine():
        return []
    try:
        found = {ipaddress.ip_address(entry[4][0]) for entry in socket.getaddrinfo(address, None)}
    except OSError as error:
        return [checks.network.ADDRESS.found(f"its DROVER_ADDRESS {address!r} is no address ({error.strerror})")]
    if not any(ip.is_loopback or ip.is_unspecified for ip in found):
        return []
    return [checks.network.ADDRESS.found(f"it listens at {address}, where no other host reaches it")]
