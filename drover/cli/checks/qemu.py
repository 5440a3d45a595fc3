"""The QEMUs that may run guests here: their versions, the bugs that they are known for, and whether KVM is there."""

import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from drover.cli.checks.check import Check, ok, problem, warning
from drover.settings import Settings
from workers.qemu import program
from workers.qemu.known_bugs import NEVER_FIXED, Accel, Severity, Version, known_bugs
from workers.trust import policy

KVM = Path("/dev/kvm")
OLDEST: Version = (7, 2, 0)
"""What Drover is tested with; an older one may lack what a move needs."""


def found(ours: Settings) -> Iterator[Check]:
    """KVM, and the version and known bugs of each QEMU on this host."""
    kvm = _opens(KVM)
    yield _kvm(there=kvm)
    programs = sorted({path.resolve() for path in policy.of(ours).qemus()})
    if not programs:
        fix = f"install qemu-system-x86, or list one under `qemu` in {ours.policy}"
        yield problem("qemu-version", "the policy lets no QEMU run guests here", fix)
    by_version: dict[Version, list[str]] = {}
    yield from _asked(programs, by_version)
    for version, names in sorted(by_version.items()):
        yield from _of_version(version, names, "kvm" if kvm else "tcg")


def _opens(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _kvm(*, there: bool) -> Check:
    if there:
        return ok("kvm", f"{KVM} is there")
    fix = "enable virtualization in the firmware and load kvm_intel or kvm_amd; guests without KVM can be moved"
    return warning("kvm", f"{KVM} is not there for this user", fix)


def _asked(programs: Iterable[Path], by_version: dict[Version, list[str]]) -> Iterator[Check]:
    """Enters those that name a version."""
    for path in programs:
        try:
            version = program.version(str(path))
        except (OSError, subprocess.SubprocessError) as error:
            yield problem("qemu-version", f"{path} does not start ({error})", "install it anew")
            continue
        if version is None:
            yield problem("qemu-version", f"{path} names no version", "install a QEMU there")
        else:
            by_version.setdefault(version, []).append(path.name)


def _of_version(version: Version, names: list[str], accel: Accel) -> Iterator[Check]:
    shown = written(version)
    if version < OLDEST:
        found = f"{', '.join(names)} is QEMU {shown}, older than all that Drover is tested with"
        yield warning("qemu-version", found, f"install QEMU {written(OLDEST)} or newer and start guests with it")
    else:
        yield ok("qemu-version", f"{', '.join(names)}: {shown}")
    for bug in known_bugs(version, accel):
        if bug.severity in {Severity.WARN, Severity.NOTE}:
            mended = next(fixed for first, fixed in bug.ranges if first <= version < fixed)
            fix = "no version has it mended" if mended == NEVER_FIXED else f"QEMU {written(mended)} has it mended"
            yield warning("qemu-bugs", f"QEMU {shown}: {bug.what} ({bug.id})", fix)


def written(version: Version) -> str:
    """`10.0.2`."""
    return ".".join(map(str, version))
