"""Proves from the final images and the consoles of a guest that its migrations lost nothing."""

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.guest.blocks import BLOCK_SIZE
from lab.guest.console import Geometry, Transcript, read_consoles
from lab.guest.continuity import continuity_problems
from lab.guest.disk_check import DiskCheck, DiskReport

MIB = 1 << 20


@dataclass(frozen=True)
class ImageRef:
    path: Path
    format: str
    disk: str  # the guest's name of it, e.g. vda


@dataclass(frozen=True)
class VerifyReport:
    ok: bool
    problems: tuple[str, ...]
    disks: tuple[DiskReport, ...]
    ticks: int
    longest_gap_ms: int  # between two ticks, by the guest's own clock, which stands still while it is stopped


def verify(images: Sequence[ImageRef], consoles: Sequence[Path]) -> VerifyReport:
    """Compare the images with the acknowledged writes, and the consoles with one uninterrupted run.

    The guest must be stopped (QMP `stop`) or its QEMU gone: a block that is just being written would
    count as torn. The consoles come in the order of the hosts the guest was on.
    """
    transcript = read_consoles(consoles)
    problems = continuity_problems(transcript)
    problems += _uncovered(images, transcript)
    reports = [_check_image(image, transcript, problems) for image in images]
    ticks, gap = len(transcript.ticks), transcript.longest_gap_ms()
    return VerifyReport(not problems, tuple(problems), tuple(reports), ticks, gap)


def _uncovered(images: Sequence[ImageRef], transcript: Transcript) -> list[str]:
    given = {image.disk for image in images}
    return [f"{disk}: no image was given to check" for disk in transcript.geometry if disk not in given]


def _check_image(image: ImageRef, transcript: Transcript, problems: list[str]) -> DiskReport:
    acknowledged = transcript.acknowledged(image.disk)
    geometry = transcript.geometry.get(image.disk)
    if geometry is None or transcript.run is None:
        problems.append(f"{image.disk}: the guest never printed how it uses this disk")
        return DiskReport(image.disk, acknowledged)
    check = DiskCheck(image.disk, transcript.run, geometry, acknowledged)
    try:
        _read_and_check(image, geometry, check)
    except subprocess.CalledProcessError as error:
        problems.append(f"{image.disk}: cannot read {image.path}: {error.stderr.strip()}")
    problems += check.problems()
    return check.report()


def _read_and_check(image: ImageRef, geometry: Geometry, check: DiskCheck) -> None:
    """Only the start of the disk is used, the image may be large; -U reads in spite of a QEMU's lock."""
    size = (geometry.slots + geometry.fill) * BLOCK_SIZE
    with tempfile.NamedTemporaryFile(prefix="drover-verify-") as raw:
        command = ["qemu-img", "dd", "-U", "-f", image.format, "-O", "raw", f"bs={MIB}"]
        files = [f"count={-(-size // MIB)}", f"if={image.path}", f"of={raw.name}"]
        subprocess.run([*command, *files], capture_output=True, text=True, check=True)
        with Path(raw.name).open("rb") as data:
            check.check(data)
