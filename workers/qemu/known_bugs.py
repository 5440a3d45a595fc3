"""QEMU bugs that decide how, or whether, a guest may be moved: data, with the versions they touch.

Everything else is decided by what `query-qmp-schema` offers; a version number matters only where
a command exists and does the wrong thing. The versions come from QEMU's sources and Debian's
changelogs, and `tcg-precopy` from trials. Distributions backport fixes without changing the
number, so an entry may say "affected" of a build that is repaired: the error is on the safe side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from models.plain import GRANULARITY
from models.preflight import Check
from workers.preflight import checks
from workers.qemu.options import GUEST_TEXT, Option, command_words, parse_command_line, spelled_out

Version = tuple[int, int, int]
Accel = Literal["tcg", "kvm"]

NEVER_FIXED: Version = (9999, 0, 0)


class Severity(StrEnum):
    REFUSE = "refuse"
    """The move would lose data or the guest: not done in the affected way."""
    AVOID = "avoid"
    """The code avoids it; no message is needed."""
    WARN = "warn"
    """Rare or harmless enough to go on; the operator of a guest that it concerns gets a warning."""
    NOTE = "note"
    """General advice for running a host; it does not concern any single move."""


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One bug and the half-open version ranges [first affected, first fixed) it lives in."""

    id: str
    what: str
    severity: Severity
    ranges: tuple[tuple[Version, Version], ...]
    accel: Accel | None = None
    """Only under this accelerator; None: under any."""
    concerns: tuple[frozenset[str], ...] = ()
    """Only guests whose command line (`_described`) holds all words of one of these sets; empty: every guest."""

    def affects(self, version: Version, accel: Accel) -> bool:
        if self.accel is not None and self.accel != accel:
            return False
        return any(first <= version < fixed for first, fixed in self.ranges)

    def concerns_guest(self, described: str) -> bool:
        return not self.concerns or any(all(word in described for word in words) for words in self.concerns)


ANCIENT: Version = (0, 0, 0)

BUGS: tuple[Bug, ...] = (
    Bug(
        id="tcg-precopy",
        what="without KVM it corrupts the memory of a guest that runs while its memory is copied (fixed in 9.0),"
        " so the guest is paused for that time",
        severity=Severity.WARN,
        # 7.2.22 crashed 18 of 31 guests, 10.0.2 none of 41; a guest paused before `migrate` is safe.
        # Commit 03bfc2188f is younger than 8.2.2: Ubuntu 24.04's 8.2.2 does not have it, and crashes guests.
        ranges=((ANCIENT, (9, 0, 0)),),
        accel="tcg",
    ),
    Bug(
        id="tcg-device-memory",
        what="without KVM it aborts when it copies the memory of a running guest that has a DIMM, virtio-mem or ERST "
        "device, so the guest is paused for that time",
        severity=Severity.WARN,
        # 10.0.2: `tlb_reset_dirty_range_all: Assertion block == qemu_get_ram_block(end - 1) failed`, with pc-dimm in 15
        # of 16 guests that were migrated three times each, with virtio-mem in 8 of 8; in none of 16 that were paused,
        # and none of 8 whose memory was two backends of NUMA nodes; with acpi-erst in 1 of 1. Other versions were not
        # tried.
        ranges=((ANCIENT, NEVER_FIXED),),
        accel="tcg",
        concerns=(frozenset({"pc-dimm"}), frozenset({"nvdimm"}), frozenset({"virtio-mem"}), frozenset({"acpi-erst"})),
    ),
    Bug(
        id="B0",
        what="a write-blocking mirror can crash when the guest writes while the job is being created",
        severity=Severity.AVOID,
        ranges=((ANCIENT, (8, 0, 0)),),
    ),
    Bug(
        id="B1",
        what="a mirror misses guest writes during its start-up (sync=top, or discard=unmap on the target"
        " with a qcow2 source), and the copy is corrupt without any error",
        severity=Severity.AVOID,
        ranges=(((8, 0, 0), (10, 0, 10)), ((10, 1, 0), (10, 2, 2))),
    ),
    Bug(
        id="B2",
        what="a write-blocking mirror crashes on small zero writes",
        severity=Severity.AVOID,
        ranges=(((10, 1, 0), (10, 2, 1)),),
    ),
    Bug(
        id="B4",
        what="a guest that arrived paused with late-block-activate aborts QEMU when it is moved again",
        severity=Severity.AVOID,
        ranges=((ANCIENT, (10, 0, 0)),),
    ),
    Bug(
        id="B5",
        what="when a switchover fails and the source's images are locked by somebody else (a backup tool),"
        " QEMU starts the guest on inactive disks and aborts",
        severity=Severity.NOTE,
        ranges=((ANCIENT, (10, 2, 0)),),
    ),
    Bug(
        id="B8",
        what="a mirror that is paused may deadlock QEMU",
        severity=Severity.WARN,
        ranges=(((8, 2, 0), (8, 2, 3)),),
    ),
    Bug(
        id="B9",
        what="IO throttling together with iothreads, or discards on IDE and SATA disks, may deadlock QEMU",
        severity=Severity.WARN,
        ranges=(((8, 0, 0), (10, 0, 10)),),
        concerns=(frozenset({"throttl", "iothread"}), frozenset({"ide-hd"})),  # SATA disks are ide-hd, too
    ),
    Bug(
        id="B10",
        what="a virtio-scsi task management request may deadlock QEMU",
        severity=Severity.WARN,
        ranges=(((10, 0, 0), (10, 0, 7)),),
        concerns=(frozenset({"virtio-scsi"}),),
    ),
    Bug(
        id="B11",
        what="virtio disks with iothreads may hang after a drained section",
        severity=Severity.WARN,
        ranges=(((8, 0, 0), (8, 2, 2)),),
        concerns=(frozenset({"iothread"}),),
    ),
    Bug(
        id="B12",
        what="a discard or zero write racing an allocating write corrupts a qcow2 image",
        severity=Severity.AVOID,
        # The fix is absent from the sources of 7.2.22, 10.0.2 and 10.2.2.
        ranges=((ANCIENT, (10, 0, 11)), ((10, 1, 0), (11, 0, 2))),
    ),
    Bug(
        id="B14",
        what="10.2.1 cannot migrate back to older versions (CPU error-code section)",
        severity=Severity.WARN,
        ranges=(((10, 2, 1), (10, 2, 2)),),
    ),
    Bug(
        id="B17",
        what="UEFI flash may lose its ROM mode in a migration",
        severity=Severity.WARN,
        ranges=((ANCIENT, (10, 0, 13)), ((10, 1, 0), (11, 1, 1))),
        concerns=(frozenset({"pflash"}),),  # the word is part of every option that gives a guest flash
    ),
)
_BY_ID = {bug.id: bug for bug in BUGS}
PAUSED = ("tcg-precopy", "tcg-device-memory")
"""Where a guest must not run while its memory is copied."""


def version(query_version_reply: Mapping[str, Any]) -> Version:
    """The version in `query-version`, also where the greeting wraps it in `QMP: {version: ...}`."""
    number = query_version_reply["qemu"]
    return int(number["major"]), int(number["minor"]), int(number["micro"])


def affects(bug_id: str, qemu: Version, accel: Accel = "kvm") -> bool:
    return _BY_ID[bug_id].affects(qemu, accel)


def live_ram_safe(source_version: Version, destination_version: Version, accel: Accel, argv: Sequence[str]) -> bool:
    """Whether the memory of the guest with this command line may be copied while it runs. If not, pause it first.

    It goes wrong at the source, so its version decides; the destination's is asked as well, because the way back would
    then be closed.
    """
    described = _described(argv)
    bugs = [_BY_ID[bug_id] for bug_id in PAUSED if _BY_ID[bug_id].concerns_guest(described)]
    return not any(bug.affects(qemu, accel) for bug in bugs for qemu in (source_version, destination_version))


def mirror_discard(source_version: Version, source_format: str) -> Literal["ignore", "unmap"]:
    """`discard` for the NBD node that a mirror with sync=full writes to.

    "ignore" makes `mirror_dirty_init` set the whole bitmap first, which is what saves a qcow2
    source from B1. A raw source reports everything allocated and may keep its holes.
    """
    return "ignore" if source_format != "raw" and affects("B1", source_version) else "unmap"


def mirror_may_be_reopened(source_version: Version) -> bool:
    """The target's node may be opened anew while the mirror runs, see `workers.qemu.target.spare_holes`."""
    return not affects("B8", source_version)


def mirror_counts_holes(source_version: Version, source_format: str, discard: str) -> bool:
    """Whether QEMU's progress of a mirror counts the whole disk, not only its data."""
    return discard == "ignore" or (source_format == "raw" and source_version < (10, 1, 0))


def target_detect_zeroes(
    exporter_version: Version, image_format: str, cluster_bytes: int | None, piece_bytes: int = GRANULARITY
) -> Literal["off", "unmap"]:
    """`detect-zeroes` for the mirror's NBD node: zeroes are not sent.

    B12 needs two requests for one qcow2 cluster at once. A mirror's are whole pieces, so that happens only where a
    cluster is larger.
    """
    shared = image_format == "qcow2" and (cluster_bytes or 0) > piece_bytes
    return "off" if shared and affects("B12", exporter_version) else "unmap"


def exporter_detect_zeroes(exporter_version: Version, image_format: str) -> Literal["off", "unmap"]:
    """`detect-zeroes` for the NBD server's format node: zeroes that were once written take no room at the destination.

    Never on qcow2 where B12 lives: there a zero write may destroy its neighbour.
    """
    return "off" if image_format == "qcow2" and affects("B12", exporter_version) else "unmap"


def known_bugs(qemu: Version, accel: Accel) -> tuple[Bug, ...]:
    """The bugs that this version has."""
    return tuple(bug for bug in BUGS if bug.affects(qemu, accel))


def warnings(
    source_version: Version, accel: Accel, argv: Sequence[str], *, destination_version: Version | None = None
) -> list[Check]:
    """Warnings for the operator of the guest with this command line, before it moves: one per bug.

    One of `PAUSED` is among them exactly when `live_ram_safe` is false.
    """
    hosts = {"source": source_version}
    if destination_version not in {None, source_version}:
        hosts["destination"] = destination_version
    described = _described(argv)
    return [
        checks.machine.KNOWN_BUG.found(f"{_named(affected)}: {bug.what} ({bug.id})")
        for bug in BUGS
        if bug.severity is Severity.WARN and bug.concerns_guest(described)
        if (affected := {place: qemu for place, qemu in hosts.items() if bug.affects(qemu, accel)})
    ]


def _named(hosts: Mapping[str, Version]) -> str:
    return " and ".join(f"{place} QEMU {'.'.join(map(str, qemu))}" for place, qemu in hosts.items())


def _described(argv: Sequence[str]) -> str:
    """The options in one string, without texts for the guest and with the disks that bare `-drive` and `-hda` make.

    `-global` says how a device would be, not that there is one: libvirt has one for UEFI flash on every line.
    """
    without = {*GUEST_TEXT, "global"}
    options = [spelled_out(option) for option in parse_command_line(argv) if option.name not in without]
    implied = ["ide-hd" for option in options if _makes_ide_disk(option)]
    return " ".join([*command_words(options), *implied])


def _makes_ide_disk(option: Option) -> bool:
    is_drive = option.name == "drive" and option.value is not None
    return is_drive and option.get("if") in {None, "ide"} and option.get("media") != "cdrom"
