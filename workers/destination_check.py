"""Could this guest run here? What must be true of the destination, and how the guest would be started there."""

import ipaddress
import os
import shutil
import socket
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.host_rpc import PlanDestination
from models.plan import DestinationPlan, PlannedDisk
from workers import attestation, derivation, files, policy, registration
from workers.files import UnsafePath
from workers.images import manifest
from workers.machine import machine
from workers.qemu import cpu
from workers.step import JobDirectory

RESERVE_BYTES = 256 << 20
"""Reserve that stays free on disks and in memory of a host."""
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
    plan, problems = derivation.derive(told, settings, rules)
    if problems:
        raise PreconditionFailed(cannot + "; ".join(problems))
    problems = _programs() + _memory(source.memory_bytes) + _images(plan.disks, settings)
    problems += _socket(plan.qmp) + _address(settings.address, told.machine)
    problems += [] if problems else derivation.in_the_way(plan.argv)
    problems += cpu.missing(source.topology.cpu, cpu.offered_here(plan.qemu, plan.argv))
    if problems:
        raise PreconditionFailed(cannot + "; ".join(problems))
    return plan


def _programs() -> list[str]:
    return [
        f"there is no {name} here: install it (Debian's qemu-utils and qemu-system-common hold it)"
        for name in ("qemu-img", "qemu-storage-daemon")
        if shutil.which(name) is None
    ]


def _memory(needed: int) -> list[str]:
    free = registration.memory_bytes("MemAvailable") - RESERVE_BYTES
    if needed <= free:
        return []
    return [f"{_mib(needed)} MiB of memory are needed and {_mib(free)} are free: move another guest away first"]


def _images(disks: Sequence[PlannedDisk], settings: Settings) -> list[str]:
    problems = [problem for disk in disks if (problem := _place(disk.destination_path, settings))]
    try:
        check_room(disks)
    except PreconditionFailed as error:
        problems.append(str(error))
    return problems + [
        f"{parent} cannot be written by this worker: give it permission"
        for parent in {manifest.existing_parent(Path(disk.destination_path)) for disk in disks}
        if not os.access(parent, os.W_OK)
    ]


def _place(image: str, settings: Settings) -> str | None:
    """What is against making an image there."""
    try:
        path = files.below(settings.guest_root, image)
        there = files.status(path)
    except UnsafePath as error:
        return str(error)
    return None if there is None else manifest.in_the_way(path, JobDirectory.all_below(settings))


def check_room(disks: Sequence[PlannedDisk]) -> None:
    """Every file system must have room for the whole virtual size of the images that it will hold.

    Raises:
        PreconditionFailed: one has not; the text has the missing size.
    """
    needed: dict[int, int] = defaultdict(int)
    example: dict[int, Path] = {}
    for disk in disks:
        path = Path(disk.destination_path)
        device = manifest.existing_parent(path).stat().st_dev
        needed[device] += disk.virtual_size_bytes
        example[device] = path
    for device, size in needed.items():
        free = manifest.free_bytes(example[device]) - RESERVE_BYTES
        if size > free:
            raise PreconditionFailed(
                f"{_mib(size)} MiB are needed for images below {manifest.existing_parent(example[device])} "
                f"and {_mib(free)} are free: make room for {_mib(size - free)} more"
            )


def _socket(qmp: str) -> list[str]:
    if len(qmp) > SOCKET_PATH_LIMIT:
        return [f"the QMP socket's path {qmp} would be too long: use a shorter guest root"]
    if Path(qmp).exists():
        return [f"{qmp} exists already: is another guest using it?"]
    return []


def _address(address: str, source_machine: str) -> list[str]:
    """The address where this host listens must reach this host from the source as well."""
    if source_machine == machine():
        return []
    try:
        found = {ipaddress.ip_address(entry[4][0]) for entry in socket.getaddrinfo(address, None)}
    except OSError as error:
        return [f"its DROVER_ADDRESS {address!r} is no address ({error.strerror}): give its worker the right one"]
    if not any(ip.is_loopback or ip.is_unspecified for ip in found):
        return []
    return [f"it listens at {address}, where no other host reaches it: give its worker the right DROVER_ADDRESS"]


def _mib(size: int) -> int:
    return max(size, 0) >> 20
