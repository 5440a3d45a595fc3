"""How a guest would be run here, derived by this host alone: from what the guest's host signed, within the policy.

A question to this host and the start of the guest's QEMU both ask here, so that nothing else is ever started.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from drover.settings import Settings, StreamSecurity
from models.plan import DestinationPlan, Inspection, PlannedDisk, SourceDisk, Statement
from workers.policy import HostPolicy
from workers.qemu import known_bugs, program
from workers.qemu.command_line import destination_command_line
from workers.qemu.permissions import violations, written
from workers.qemu.refusals import command_line_refusals
from workers.qmp_ready import listens

Relocate = Callable[[str], str]
"""The same place below this host's guest root."""
FORMATS = {"raw", "qcow2"}
CREATE_OPTIONS = {"cluster_size", "compat", "lazy_refcounts", "refcount_bits", "extended_l2", "compression_type"}
"""Others of qemu-img's name files of this host: `backing_file`, `data_file`."""
NO_QEMU = (0, 0, 0)


def derive(told: Statement, ours: Settings, rules: HostPolicy) -> tuple[DestinationPlan, list[str]]:
    """How the guest would run here, and why it must not: sentences. Starts nothing but `QEMU --version`."""
    seen, root = told.inspection, told.guest_root
    try:
        relocate = _relocation(root, str(ours.guest_root))
        disks = tuple(_disk(disk, relocate, seen.qemu_version) for disk in seen.disks)
        qmp, pidfile = relocate(seen.qmp), relocate(seen.pidfile) if seen.pidfile else None
    except ValueError:
        disks, qmp, pidfile = (), "", None
        outside = [f"not all files of the guest lie below {root}, its host's DROVER_GUEST_ROOT"]
    else:
        outside = []
    qemu, version, problems = _qemu(seen, rules)
    argv = destination_command_line(
        seen.argv,
        machine_type=seen.machine_type,
        source_root=root,
        destination_root=str(ours.guest_root),
        qemu=qemu,
    )
    images = {disk.destination_path for disk in disks}
    problems += outside + _disk_faults(disks, rules) + _path_faults(rules, qmp, pidfile)
    problems += command_line_refusals(argv, source_root=str(ours.guest_root)) + violations(argv, rules, images)
    live = known_bugs.live_ram_safe(seen.qemu_version, version, seen.accel)
    plan = DestinationPlan(
        argv=tuple(argv),
        qmp=qmp,
        pidfile=pidfile,
        qemu=qemu,
        qemu_version=version,
        ram="live" if live else "paused",
        disks=disks,
        warnings=tuple(_warnings(seen, version, ours.streams)),
    )
    return plan, problems


def _warnings(seen: Inspection, version: known_bugs.Version, streams: StreamSecurity) -> list[str]:
    bugs = known_bugs.warnings(seen.qemu_version, seen.accel, seen.argv, destination_version=version)
    plain = "its disks and RAM go over the network in plain text: DROVER_STREAMS is plain on both hosts"
    return [*bugs, plain] if streams is StreamSecurity.PLAIN else bugs


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


def _qemu(seen: Inspection, rules: HostPolicy) -> tuple[str, known_bugs.Version, list[str]]:
    """The same program here, its version, and what is wrong with it. Nothing that may not run is even asked."""
    name = Path(seen.exe).name
    qemu = seen.exe if os.access(seen.exe, os.X_OK) else shutil.which(name)
    if qemu is None:
        return "", NO_QEMU, [f"there is no {name} here: install it"]
    if not rules.may_run(qemu):
        return qemu, NO_QEMU, [f"{qemu} is not among the programs that may run guests here, see {rules.name} there"]
    try:
        version, machine_types = program.version(qemu), program.machine_types(qemu)
    except (OSError, subprocess.SubprocessError) as error:
        return qemu, NO_QEMU, [f"{qemu} does not work here: {error}"]
    if version is None:
        return qemu, NO_QEMU, [f"{qemu} --version does not name a version"]
    if seen.machine_type not in machine_types:
        return qemu, version, [f"its QEMU has no machine type {seen.machine_type}: install a newer one"]
    return qemu, version, []


def _disk_faults(disks: tuple[PlannedDisk, ...], rules: HostPolicy) -> list[str]:
    """Where an image would be made, and as what."""
    found = []
    for disk in disks:
        path, options = disk.destination_path, disk.create_options
        found += _path_faults(rules, path)
        if disk.format not in FORMATS or options.keys() - CREATE_OPTIONS:
            found.append(f"no image like {path} is made here ({disk.format}, {', '.join(sorted(options))})")
        elif not all(re.fullmatch(r"[A-Za-z0-9.]+", value) for value in options.values()):
            found.append(f"no image like {path} is made here ({', '.join(options.values())})")
    if [disk.index for disk in disks] != list(range(len(disks))):
        found.append("its disks are not numbered from 0 on")
    return found


def in_the_way(argv: Sequence[str]) -> list[str]:
    """What QEMU would delete or overwrite: only a dead socket and a log may be where it makes its own. Sentences."""
    return [
        f"{path} exists already and is no log: if no guest needs it, move it away"
        for path, text_may_be_there in written(argv)
        if os.path.lexists(path) and not _worthless(Path(path), text_may_be_there)
    ]


def _worthless(path: Path, text_may_be_there: bool) -> bool:
    if path.is_fifo():
        return True
    if path.is_socket():
        return not listens(path)
    return text_may_be_there and path.is_file() and _is_text(path)


def _is_text(path: Path) -> bool:
    """No image begins like that."""
    with path.open("rb") as file:
        return b"\0" not in file.read(1 << 16)


def _path_faults(rules: HostPolicy, *paths: str | None) -> list[str]:
    return [
        f"{path} is outside the folders that its policy allows, see {rules.name} there"
        for path in paths
        if path and not rules.may_write(path)
    ]
