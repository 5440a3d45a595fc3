"""The lab's guests: booting one, and proving afterwards that no move lost anything."""

import asyncio
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from drover.errors import PreconditionFailed
from lab import network
from lab.directory import Lab
from lab.guest.boot_files import boot_files, default_cache
from lab.guest.command_line import command_line
from lab.guest.spec import DiskSpec, GuestSpec, create_images
from lab.guest.verify import ImageRef, VerifyReport, verify
from models.database import transaction
from models.guest import Guest
from models.job import Job, JobState
from workers.process import processes
from workers.process.processes import Process
from workers.qemu.monitor import connect
from workflows import guests

BOOT_TIMEOUT_S = 120.0
SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_disk(text: str) -> DiskSpec:
    """`SIZE[:qcow2|raw][:blockdev|drive][:virtio-blk|virtio-scsi]`, for example `2G:raw`.

    Raises:
        PreconditionFailed: it is none of that.
    """
    size, *words = text.split(":")
    try:
        number = int(size[:-1]) * SIZES[size[-1].upper()]
    except (ValueError, KeyError, IndexError):
        raise PreconditionFailed(f"{size!r} is no size: write 512M or 2G") from None
    kinds = {"qcow2": "format", "raw": "format", "blockdev": "attach", "drive": "attach"}
    kinds |= {"virtio-blk": "bus", "virtio-scsi": "bus"}
    if unknown := [word for word in words if word not in kinds]:
        raise PreconditionFailed(f"{unknown[0]!r} is not one of {', '.join(kinds)}")
    return DiskSpec(size_bytes=number, **{kinds[word]: word for word in words})  # type: ignore[arg-type]


def boot(lab: Lab, spec: GuestSpec, host: str) -> Process:
    """Start a guest with empty disks on a host of the lab, wait until it writes, and have Drover adopt it."""
    make_directory(lab, spec, host)
    create_images(spec)
    started = start(lab, spec, host)
    adopt_when_it_writes(lab, spec, host, started)
    return started


def make_directory(lab: Lab, spec: GuestSpec, host: str) -> None:
    """Where all files of the guest will lie.

    Raises:
        PreconditionFailed: the lab has no such host, or the folder exists already.
    """
    if host not in {known.name for known in lab.hosts}:
        raise PreconditionFailed(f"the lab has no host {host!r}: see `drover host list`")
    if spec.directory.exists():
        raise PreconditionFailed(f"{spec.directory} exists already: name the guest otherwise")
    spec.directory.mkdir(parents=True)


def start(lab: Lab, spec: GuestSpec, host: str, *more: str, by: Sequence[str] = ()) -> Process:
    """Run the guest's QEMU, with these words more on its command line, which is handed to the program `by` if there is
    one.
    """
    _record(lab, spec)
    argv = [*network.inside(lab, lab.host(host)), *by, *command_line(spec, boot_files(default_cache())), *more]
    return processes.spawn(lab.mark(f"guest-{spec.name}"), argv, log_of(lab, spec))


def log_of(lab: Lab, spec: GuestSpec) -> Path:
    """What the guest's first QEMU prints."""
    return lab.logs / f"{spec.name}.log"


def _record(lab: Lab, spec: GuestSpec) -> None:
    """Record for `verify` the guest's disks by their names in the guest."""
    disks = [
        {"image": spec.image(index).name, "format": disk.format, "name": name}
        for index, (disk, name) in enumerate(zip(spec.disks, spec.disk_names, strict=True))
    ]
    folder = lab.path / "specs"
    folder.mkdir(exist_ok=True)
    (folder / f"{spec.name}.json").write_text(json.dumps(disks))


def adopt_when_it_writes(lab: Lab, spec: GuestSpec, host: str, started: Process, heard: int = 0) -> None:
    """Wait until the guest prints, after the first `heard` bytes of its console, that it writes; then adopt it.

    Raises:
        PreconditionFailed: it ended, or took too long.
    """
    wait_until_it_writes(spec, started, log_of(lab, spec), heard)
    guests.adopt(spec.name, host, str(spec.qmp_socket))


def wait_until_it_writes(spec: GuestSpec, started: Process, log: Path, heard: int = 0) -> None:
    """The first half of `adopt_when_it_writes`; `log` is what its QEMU prints."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    sign = b"ack " if spec.write_rate else b"tick "
    while not (spec.console.exists() and sign in spec.console.read_bytes()[heard:]):
        if not started.alive or time.monotonic() > deadline:
            words = processes.log_tail(log) or processes.log_tail(spec.console)
            raise PreconditionFailed(f"guest {spec.name} did not boot: {words}")
        time.sleep(0.05)


@dataclass(frozen=True)
class Verdict:
    """What became of a guest, and where it lives now."""

    host: str
    report: VerifyReport


def check(lab: Lab, name: str) -> Verdict:
    """Stop the guest for a moment, compare its images with all that it printed, and resume it.

    Raises:
        PreconditionFailed: there is no such guest, or its consoles can no longer be told apart.
    """
    guest = guests.known_guest(name)
    consoles = _consoles(lab, guest)
    folder = lab.host(guest.host).guests / name
    disks = json.loads((lab.path / "specs" / f"{name}.json").read_text())
    images = [ImageRef(folder / disk["image"], disk["format"], disk["name"]) for disk in disks]
    return Verdict(guest.host, asyncio.run(_while_stopped(guest.qmp, images, consoles)))


async def _while_stopped(qmp: str, images: list[ImageRef], consoles: list[Path]) -> VerifyReport:
    async with connect(qmp) as monitor:
        await monitor.execute("stop")
        try:
            return await asyncio.to_thread(verify, images, consoles)
        finally:
            await monitor.execute("cont")


def _consoles(lab: Lab, guest: Guest) -> list[Path]:
    """All consoles in the order in which the guest was there; those it has left are put away first.

    A host that it returns to would go on with the old file, so each stay's console is moved aside.
    """
    shelf = lab.path / "consoles" / guest.name
    shelf.mkdir(parents=True, exist_ok=True)
    put_away = sorted(shelf.iterdir())
    stays = _stays(guest)[len(put_away) :]
    if len(stays) != len(set(stays)):
        raise PreconditionFailed(f"{guest.name} was twice on one host since it was last verified: verify each move")
    for number, host in enumerate(stays[:-1], start=len(put_away)):
        shutil.move(lab.host(host).guests / guest.name / "console.log", shelf / f"{number:03}-{host}.log")
    return [*sorted(shelf.iterdir()), lab.host(guest.host).guests / guest.name / "console.log"]


def _stays(guest: Guest) -> list[str]:
    """The hosts that the guest has lived on, in order."""
    with transaction() as session:
        jobs = session.scalars(
            select(Job).where(Job.guest == guest.name, Job.state == JobState.DONE).order_by(Job.id)
        ).all()
    return [job.source for job in jobs] + [guest.host]
