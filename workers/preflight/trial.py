"""Trying the guest's next QEMU before anything begins: it starts with stand-ins for its disks, shows what machine it
makes, and ends. Nothing of the host is changed, see `workers.qemu.trial_line`.
"""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from drover.errors import DroverError
from drover.settings import Settings
from models.plan import DestinationPlan, FileKind, Inspection, PlannedDisk, PlannedFile, PlannedTpm, Topology
from models.preflight import Check
from workers.guest.qmp_ready import monitor_ready
from workers.images import manifest
from workers.preflight import checks, inspection
from workers.process import execution, processes, tpm
from workers.process.qemus import TRIALS
from workers.qemu import cpu, topology
from workers.qemu.monitor import connect
from workers.qemu.trial_line import TrialLine, trial_line

UNDERSTOOD = re.compile(r"tls-creds-|^-acpitable$|^-smbios$|\bkeyid\b|\bbase64\b")
"""Options by which QEMU reads files that it must understand when it starts: keys, tables of ACPI and SMBIOS, secrets
that are encrypted or encoded."""
KEYED = "key-secret"
"""In the options of an encrypted image. There is no stand-in for one: the guest's key opens that image alone."""


async def tried(seen: Inspection, plan: DestinationPlan, ours: Settings) -> list[Check]:
    """Why the guest's QEMU would not start here, or would make another machine; empty if it would be the same."""
    if not can_be_tried(plan):
        return []
    async with _folder(ours) as folder:
        stand_ins = {disk.destination_path: str(folder / f"disk{disk.index}") for disk in plan.disks}
        stand_ins |= {disk.named: stand_ins[disk.destination_path] for disk in plan.disks if disk.named is not None}
        missing = {file.destination_path: file for file in plan.files if not file.there}
        stand_ins |= {path: str(folder / f"file{number}") for number, path in enumerate(missing)}
        await asyncio.gather(*(asyncio.to_thread(_stand_in, disk, stand_ins) for disk in plan.disks))
        await asyncio.gather(*(asyncio.to_thread(_file, file, stand_ins) for file in missing.values()))
        emulator = tpm.stand_in(plan.tpm, folder) if plan.tpm is not None else None
        if plan.tpm is not None and emulator is not None:
            stand_ins[plan.tpm.socket] = emulator.socket
        line = trial_line(plan.argv, stand_ins=stand_ins, folder=folder)
        try:
            found = await _machine(line, folder, emulator)
        except DroverError as error:
            return [checks.machine.DOES_NOT_START.found(f"the destination's QEMU does not start: {error}")]
    return _differences(seen, plan, found) if line.same_machine else []


def can_be_tried(plan: DestinationPlan) -> bool:
    """There is a stand-in for each of its disks and files."""
    missing = [file for file in plan.files if not file.there]
    if any(file.kind is FileKind.KERNEL for file in missing):
        return False
    if missing and any(UNDERSTOOD.search(word) for word in plan.argv):
        return False
    return not any(KEYED in word for word in plan.argv)


def _stand_in(disk: PlannedDisk, stand_ins: dict[str, str]) -> None:
    """An empty image like the one that would be made."""
    path = Path(stand_ins[disk.destination_path])
    path.touch()
    options = {key: value for key, value in disk.create_options.items() if key != "preallocation"}
    manifest.create(path, disk.format, disk.virtual_size_bytes, options)


def _file(file: PlannedFile, stand_ins: dict[str, str]) -> None:
    """A file of the same size with nothing in it; an image of the same format."""
    path = Path(stand_ins[file.destination_path])
    with path.open("wb") as empty:
        empty.truncate(file.size_bytes if file.format in {None, "raw"} else 0)
    if file.format not in {None, "raw"}:
        manifest.create(path, str(file.format), file.size_bytes, {})


async def _machine(line: TrialLine, folder: Path, emulator: PlannedTpm | None = None) -> Topology:
    log = folder / "log"
    launched = execution.launched(line.argv, execution.plainly(), emulator)
    started = processes.spawn(str(folder / "trial"), ["setpriv", "--pdeathsig", "KILL", *launched], log)
    try:
        await monitor_ready(started, line.qmp, log)
        async with connect(line.qmp) as monitor:
            return await inspection.machine(monitor)
    finally:
        await started.end_now()


def _differences(seen: Inspection, plan: DestinationPlan, there: Topology) -> list[Check]:
    here, same = seen.topology, seen.qemu_version == plan.qemu_version
    remedy = checks.machine.CHANGED_SINCE if same else None
    devices = topology.differences_of(here, there, same_version=same)
    return [
        *(checks.machine.OTHER_MACHINE.found(f"its machine would differ: {one}", remedy=remedy) for one in devices),
        *(checks.machine.CPU.found(sentence) for sentence in cpu.missing(here.cpu, there.cpu)),
    ]


@asynccontextmanager
async def _folder(ours: Settings) -> AsyncIterator[Path]:
    """The trial's own; what a worker that died has left of earlier ones goes. Several may be under way at once."""
    trials, mine = ours.directory / TRIALS, f"{os.getpid()}-"
    trials.mkdir(mode=0o700, exist_ok=True)
    for left in trials.iterdir():
        if not left.name.startswith(mine) and not processes.find_below(left):
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=trials, prefix=mine))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
