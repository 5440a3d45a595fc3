"""Could this guest run here? What must be true of the destination, and how the guest would be started there."""

import ipaddress
import os
import shutil
import socket
import subprocess
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from drover.errors import PreconditionFailed
from drover.settings import Settings, StreamSecurity
from models.host_rpc import PlanDestination
from models.plan import DestinationPlan, Inspection, PlannedDisk, SourceDisk
from workers import files, registration
from workers.files import UnsafePath
from workers.images import manifest
from workers.qemu import cpu, known_bugs, program
from workers.qemu.command_line import destination_command_line
from workers.step import JobDirectory

Relocate = Callable[[str], str]
"""A function from a path at the source to the same place below this host's guest root."""
RESERVE_BYTES = 256 << 20
"""Reserve that stays free on disks and in memory of a host."""
SOCKET_PATH_LIMIT = 107
"""Longest path of a Unix socket (unix(7))."""


async def plan_destination(question: PlanDestination, settings: Settings) -> DestinationPlan:
    """Check this host, and return how the guest would run here.

    Raises:
        PreconditionFailed: it cannot; all that is in the way, each with what to do.
    """
    source, root = question.source, question.source_root
    relocate = _relocation(root, str(settings.guest_root))
    qemu, version, problems = _qemu(source)
    disks = tuple(_disk(disk, relocate, source.qemu_version) for disk in source.disks)
    qmp = relocate(source.qmp)
    problems += _programs() + _memory(source.memory_bytes)
    problems += _images(disks, settings) + _socket(qmp) + _address(settings.address, question.source_machine)
    argv = destination_command_line(
        source.argv,
        machine_type=source.machine_type,
        source_root=root,
        destination_root=str(settings.guest_root),
        qemu=qemu,
    )
    problems += cpu.missing(source.topology.cpu, cpu.offered_here(qemu, argv))
    if problems:
        raise PreconditionFailed(f"{settings.host} cannot take {question.guest}: " + "; ".join(problems))
    live = known_bugs.live_ram_safe(source.qemu_version, version, source.accel)
    return DestinationPlan(
        argv=tuple(argv),
        qmp=qmp,
        pidfile=relocate(source.pidfile) if source.pidfile else None,
        qemu=qemu,
        qemu_version=version,
        ram="live" if live else "paused",
        disks=disks,
        warnings=tuple(_warnings(source, version, settings.streams)),
    )


def _relocation(source_root: str, destination_root: str) -> Relocate:
    """The same place below the other host's guest root."""

    def relocate(path: str) -> str:
        return str(Path(destination_root) / Path(path).relative_to(source_root))

    return relocate


def _disk(disk: SourceDisk, relocate: Relocate, version: known_bugs.Version) -> PlannedDisk:
    return PlannedDisk(
        index=disk.index,
        device=disk.device,
        format=disk.format,
        source_path=disk.path,
        destination_path=relocate(disk.path),
        virtual_size_bytes=disk.virtual_size_bytes,
        create_options=disk.create_options,
        discard=known_bugs.mirror_discard(version, disk.format),
    )


def _qemu(source: Inspection) -> tuple[str, known_bugs.Version, list[str]]:
    """The same program here, its version, and what is wrong with it."""
    qemu = source.exe if os.access(source.exe, os.X_OK) else shutil.which(Path(source.exe).name)
    if qemu is None:
        return "", (0, 0, 0), [f"there is no {Path(source.exe).name} here: install it"]
    machine_type = source.machine_type
    try:
        version, machine_types = program.version(qemu), program.machine_types(qemu)
    except (OSError, subprocess.SubprocessError) as error:
        return qemu, (0, 0, 0), [f"{qemu} does not work here: {error}"]
    if version is None:
        return qemu, (0, 0, 0), [f"{qemu} --version does not name a version"]
    if machine_type not in machine_types:
        return qemu, version, [f"its QEMU has no machine type {machine_type}: install a newer one"]
    return qemu, version, []


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


def _address(address: str, source_machine: str | None) -> list[str]:
    """The address where this host listens must reach this host from the source as well."""
    if source_machine in {None, registration.machine()}:  # None: a worker of an earlier version
        return []
    try:
        found = {ipaddress.ip_address(entry[4][0]) for entry in socket.getaddrinfo(address, None)}
    except OSError as error:
        return [f"its DROVER_ADDRESS {address!r} is no address ({error.strerror}): give its worker the right one"]
    if not any(ip.is_loopback or ip.is_unspecified for ip in found):
        return []
    return [f"it listens at {address}, where no other host reaches it: give its worker the right DROVER_ADDRESS"]


def _warnings(source: Inspection, version: known_bugs.Version, streams: StreamSecurity) -> list[str]:
    bugs = known_bugs.warnings(source.qemu_version, source.accel, source.argv, destination_version=version)
    plain = "its disks and RAM go over the network in plain text: DROVER_STREAMS is plain on both hosts"
    return [*bugs, plain] if streams is StreamSecurity.PLAIN else bugs


def _mib(size: int) -> int:
    return max(size, 0) >> 20
