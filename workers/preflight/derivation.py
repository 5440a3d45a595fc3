"""How a guest would be run here, derived by this host alone: from what the guest's host signed, within the policy.

A question to this host and the start of the guest's QEMU both ask here, so that nothing else is ever started.
"""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain as chained
from pathlib import Path

from drover.errors import PreconditionFailed
from drover.settings import Settings, StreamSecurity
from models import preflight
from models.plain import GRANULARITY
from models.plan import (
    BackingImage,
    Chain,
    DestinationPlan,
    Inspection,
    Layout,
    Link,
    PlannedDisk,
    SourceDisk,
    Statement,
)
from models.preflight import Check
from workers.guest import monitors, run_files
from workers.images import manifest
from workers.media import destination
from workers.preflight import checks
from workers.process import execution, taps, tpm
from workers.qemu import known_bugs, program
from workers.qemu.command_line import destination_command_line
from workers.qemu.disks import FORMATS
from workers.qemu.image_options import Fit, fitted
from workers.qemu.options import command_words, parse_command_line, settled
from workers.qemu.permissions import violations, written
from workers.qemu.present_media import without_backing_files
from workers.qemu.refusals import refused_options
from workers.storage.targets import Target, Targets, changes
from workers.trust.policy import HostPolicy

Relocate = Callable[[str], str]
"""The same place below this host's guest root."""
NO_QEMU = (0, 0, 0)


@dataclass(frozen=True)
class _Places:
    """Where the guest's own files lie here."""

    disks: tuple[PlannedDisk, ...] = ()
    qmp: str = ""
    pidfile: str | None = None

    @property
    def images(self) -> set[str]:
        """As the command line names them."""
        return {disk.named or disk.destination_path for disk in self.disks}


def derive(
    told: Statement, ours: Settings, rules: HostPolicy, chain: Chain = "keep", layout: Layout | None = None
) -> tuple[DestinationPlan, list[Check]]:
    """How the guest would run here, and why it must not. Starts nothing but `QEMU --version`.

    `layout` is what is wanted of its disks; the policy decides about it like about all else.
    """
    seen, root = told.inspection, told.guest_root
    places, outside = _places(told, ours, rules, chain, layout or Layout())
    qemu, version, problems = _qemu(seen, rules)
    needed = destination.planned_files(seen, root, ours, rules)
    emulator = tpm.planned(seen, root, ours)
    argv = _command_line(told, ours, chain, places, {file.source_path: file.destination_path for file in needed}, qemu)
    problems += execution.impossible(seen.started_as, rules) + taps.impossible(seen.started_as, rules)
    problems += tpm.impossible(seen, emulator, rules)
    problems += outside + _disk_faults(places.disks, rules) + _path_faults(rules, places.qmp, places.pidfile)
    if not outside:  # else nobody knows its command line here
        problems += _forbidden(argv, seen, places.images, {emulator.socket} if emulator else set(), ours, rules)
    warned = _warnings(seen, version, places.disks, ours.streams)
    live = known_bugs.live_ram_safe(seen.qemu_version, version, seen.accel, seen.argv)
    plan = DestinationPlan(
        argv=tuple(argv),
        qmp=places.qmp,
        pidfile=places.pidfile,
        qemu=qemu,
        qemu_version=version,
        ram="live" if live else "paused",
        disks=places.disks,
        files=needed,
        folders=destination.planned_folders(seen, root, ours),
        tpm=emulator,
        warnings=preflight.warnings(warned),
        checks=tuple(warned),
    )
    return plan, list(checks.told_once(problems))


def _places(
    told: Statement, ours: Settings, rules: HostPolicy, chain: Chain, layout: Layout
) -> tuple[_Places, list[Check]]:
    """None, with the reason, where not all of them can lie here."""
    seen, root = told.inspection, told.guest_root
    relocate = _relocation(root, str(ours.guest_root))
    try:
        disks = _disks(told, ours, rules, chain, layout)
        pidfile = relocate(seen.pidfile) if seen.pidfile else None
        return _Places(disks, _monitor(seen, disks, relocate), pidfile), []
    except ValueError:
        return _Places(), [checks.files.NOT_BELOW_ROOT.found(f"not all files of the guest lie below {root}")]
    except PreconditionFailed as error:
        return _Places(), [checks.disks.LAYOUT.found(str(error))]


def _command_line(
    told: Statement, ours: Settings, chain: Chain, places: _Places, files: Mapping[str, str], qemu: str
) -> list[str]:
    seen = told.inspection
    argv = destination_command_line(
        seen.argv if chain == "keep" else without_backing_files(seen.argv),
        machine_type=seen.machine_type,
        source_root=told.guest_root,
        destination_root=str(ours.guest_root),
        qemu=qemu,
        image_paths={**_elsewhere(seen, places.disks), **files},
        more=monitors.ours(places.qmp) if _needs_monitor(seen) else (),
    )
    others = {disk.named or disk.destination_path: _fit(disk) for disk in places.disks if _becomes_another(disk)}
    return fitted(argv, others)


def _forbidden(
    argv: Sequence[str], seen: Inspection, images: set[str], spoken_to: set[str], ours: Settings, rules: HostPolicy
) -> list[Check]:
    """What no QEMU may be started with here. The policy is not asked about what no host can start."""
    handed = execution.descriptors(seen.started_as)
    against = refused_options(argv, source_root=str(ours.guest_root), images=images, descriptors=handed)
    left = command_words(option for option in settled(parse_command_line(argv)) if option not in against)
    forbidden = violations([argv[0], *left], rules, images, spoken_to)
    return [
        *checks.at_destination(chained.from_iterable(against.values())),
        *(checks.rules.POLICY.found(sentence) for sentence in forbidden),
    ]


def _warnings(
    seen: Inspection, version: known_bugs.Version, disks: Sequence[PlannedDisk], streams: StreamSecurity
) -> list[Check]:
    found = known_bugs.warnings(seen.qemu_version, seen.accel, seen.argv, destination_version=version)
    if streams is StreamSecurity.PLAIN:
        plain = "its disks and RAM go over the network in plain text: DROVER_STREAMS is plain on both hosts"
        found.append(checks.network.PLAIN_STREAMS.found(plain))
    changed = [checks.disks.CHANGED_DISK.found(sentence) for sentence in changes(disks)]
    handed = [*taps.warnings(seen.started_as), *execution.warnings(seen.started_as)]
    return [*checks.at_destination(found), *changed, *handed]


def _relocation(source_root: str, destination_root: str) -> Relocate:
    """The same place below the other host's guest root."""

    def relocate(path: str) -> str:
        return str(Path(destination_root) / Path(path).relative_to(source_root))

    return relocate


def _disks(told: Statement, ours: Settings, rules: HostPolicy, chain: Chain, layout: Layout) -> tuple[PlannedDisk, ...]:
    """Each disk where it is made here. Raises what `Targets.of` does."""
    seen, root = told.inspection, Path(told.guest_root)

    def relative(path: str) -> str:
        return str(Path(path).relative_to(root))

    targets = Targets(
        relative=relative, root=ours.guest_root, folder=_folder(seen, root, ours), layout=layout, rules=rules
    )
    relocate = _relocation(told.guest_root, str(ours.guest_root))
    made = []
    for disk in seen.disks:
        kept = _chain(disk, told.guest_root, ours, chain)
        made.append(_disk(disk, targets.of(disk, on_chain=bool(kept)), relocate, seen.qemu_version, kept))
    return tuple(made)


def _folder(seen: Inspection, root: Path, ours: Settings) -> Path:
    """Where the guest's files are here: the folder of its monitor, or of its first disk that lies below the root."""
    for path in (seen.qmp, *(disk.path for disk in seen.disks)):
        if Path(path).is_relative_to(root):
            return ours.guest_root / Path(path).relative_to(root).parent
    return ours.guest_root


def _chain(disk: SourceDisk, root: str, ours: Settings, chain: Chain) -> tuple[BackingImage, ...]:
    """The backing files that the disk has here."""
    kept = disk.chain if chain == "keep" else ()
    return tuple(
        BackingImage(path=destination.relocated(level.path, root, ours), format=level.format) for level in kept
    )


def _disk(
    disk: SourceDisk,
    target: Target,
    relocate: Relocate,
    version: known_bugs.Version,
    chain: tuple[BackingImage, ...],
) -> PlannedDisk:
    return PlannedDisk(
        index=disk.index,
        device=disk.device,
        format=target.format,
        source_format=disk.format if disk.format != target.format else None,
        source_path=disk.path,
        source_device=disk.block_device,
        destination_path=target.path,
        destination_device=target.device,
        volume_of=target.volume_of,
        named=relocate(disk.named) if disk.named and target.in_place else None,
        links=tuple(_link(link, relocate) for link in disk.links) if target.in_place else (),
        virtual_size_bytes=disk.virtual_size_bytes,
        allocated_bytes=disk.allocated_bytes if disk.copied_bytes is None else disk.copied_bytes,
        piece_bytes=_piece_bytes(disk, target),
        create_options=target.create_options,
        discard=known_bugs.mirror_discard(version, disk.format),
        chain=chain,
        key_secret=disk.key_secret,
    )


def _piece_bytes(disk: SourceDisk, target: Target) -> int:
    """Zeroes are left out only in whole clusters, see `known_bugs.target_detect_zeroes`. A guest that writes a little
    has more copied anew then, so it is for images alone that would else take all of their room.
    """
    large = disk.laid_out and target.format == "qcow2"
    return max(disk.cluster_size_bytes or 0, GRANULARITY) if large else GRANULARITY


def _elsewhere(seen: Inspection, disks: Sequence[PlannedDisk]) -> dict[str, str]:
    """{path on the source's command line: path here} of disks that are not in the same place below the guest root."""
    named = {disk.index: disk.named or disk.path for disk in seen.disks}
    return {named[disk.index]: disk.named or disk.destination_path for disk in disks}


def _becomes_another(disk: PlannedDisk) -> bool:
    return disk.source_format is not None or disk.source_device or disk.destination_device


def _fit(disk: PlannedDisk) -> Fit:
    return Fit(format=disk.format, device=disk.destination_device, size_bytes=disk.virtual_size_bytes)


def _monitor(seen: Inspection, disks: Sequence[PlannedDisk], relocate: Relocate) -> str:
    """Where the guest's monitor is here: one at a port of the other host is none, so it gets a socket of its own."""
    if not seen.qmp.startswith("tcp:"):
        return relocate(seen.qmp)
    if (path := monitors.our_path(seen.argv)) is not None:
        return relocate(path)
    files = [disk.destination_path for disk in disks if not disk.destination_device]
    return f"{files[0] if files else relocate(seen.pidfile or '')}.qmp"


def _needs_monitor(seen: Inspection) -> bool:
    return seen.qmp.startswith("tcp:") and monitors.our_path(seen.argv) is None


def _link(link: Link, relocate: Relocate) -> Link:
    """A link to an absolute path leads below the guest root of its host."""
    target = relocate(link.target) if link.target.startswith("/") else link.target
    return Link(path=relocate(link.path), target=target)


def _meant(link: Link) -> str:
    """The path that it leads to."""
    return os.path.normpath(Path(link.path).parent / link.target)


def _qemu(seen: Inspection, rules: HostPolicy) -> tuple[str, known_bugs.Version, list[Check]]:
    """The same program here, its version, and what is wrong with it. Nothing that may not run is even asked, and
    where a link leads is looked at once: whoever made it could have it lead elsewhere by the time QEMU is started.
    """
    name = Path(seen.exe).name
    found = seen.exe if os.access(seen.exe, os.X_OK) else shutil.which(name)
    if found is None:
        return "", NO_QEMU, [checks.process.NO_QEMU.found(f"there is no {name} here")]
    qemu = os.path.realpath(found)
    if not rules.may_run(qemu):
        seen_there = f"{qemu} is not among the programs that may run guests here, see {rules.name} there"
        return qemu, NO_QEMU, [checks.process.QEMU_NOT_ALLOWED.found(seen_there)]
    try:
        version, machine_types = program.version(qemu), program.machine_types(qemu)
    except (OSError, subprocess.SubprocessError) as error:
        return qemu, NO_QEMU, [checks.process.NO_QEMU.found(f"{qemu} does not work here: {error}", remedy=_tried(qemu))]
    if version is None:
        return (
            qemu,
            NO_QEMU,
            [checks.process.NO_QEMU.found(f"{qemu} --version does not name a version", remedy=_tried(qemu))],
        )
    if seen.machine_type not in machine_types:
        return qemu, version, [checks.machine.MACHINE_TYPE.found(f"its QEMU has no machine type {seen.machine_type}")]
    return qemu, version, []


def _tried(qemu: str) -> str:
    return f"run `{qemu} --version` and `{qemu} -machine help` there, and mend what they say"


def _disk_faults(disks: tuple[PlannedDisk, ...], rules: HostPolicy) -> list[Check]:
    """Where an image would be made, and as what."""
    found = []
    for disk in disks:
        path, options = disk.destination_path, disk.create_options
        found += _path_faults(rules, path)
        if not all(rules.may_write(link.path) and rules.may_write(_meant(link)) for link in disk.links):
            found.append(_outside(f"a link to {path}", rules))
        if disk.format not in FORMATS or not all(manifest.is_known(*option) for option in options.items()):
            kind = ", ".join([disk.format, *(f"{name}={value}" for name, value in sorted(options.items()))])
            seen = f"no image like {path} is made here ({kind})"
            found.append(
                checks.disks.IMAGE_KIND.found(seen, remedy="move the guest with `--format qcow2` or `--format raw`")
            )
    for path, number in Counter(disk.destination_path for disk in disks).items():
        if number > 1:
            seen = f"{number} disks of the guest would become {path}"
            found.append(checks.disks.LAYOUT.found(seen, remedy="name another place for each with `--disk N=PATH`"))
    if [disk.index for disk in disks] != list(range(len(disks))):
        seen = "its disks are not numbered from 0 on, which no plan of Drover does"
        found.append(
            checks.disks.IMAGE_KIND.found(seen, remedy="submit the move again, and look who writes to the database")
        )
    return found


def in_the_way(plan: DestinationPlan) -> list[Check]:
    """What QEMU would delete or overwrite: only a dead socket and a log may be where it makes its own."""
    made = (*written(plan.argv), *tpm.written(plan.tpm))
    found = [
        checks.files.IN_THE_WAY.found(f"{path} exists already and is no log") for path in run_files.in_the_way(made)
    ]
    return found + tpm.in_the_way(plan.tpm)


def _path_faults(rules: HostPolicy, *paths: str | None) -> list[Check]:
    return [_outside(path, rules) for path in paths if path and not rules.may_write(path)]


def _outside(path: str, rules: HostPolicy) -> Check:
    return checks.rules.POLICY.found(f"{path} is outside the folders that its policy allows, see {rules.name} there")
