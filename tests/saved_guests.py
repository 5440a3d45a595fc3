"""Guests that need not boot: each kind boots once in a run of the tests, and all others go on from its saved state.

A boot under emulation takes seconds of a whole core, going on from a saved state a tenth of that. What is restored is a
real guest with real images; only `tests/guests/test_lab_guest.py` and what boots through `lab.guests` begin at its
kernel.
"""

import asyncio
import atexit
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from filelock import FileLock

from lab import guests
from lab.directory import Lab
from lab.guest.boot_files import boot_files, default_cache
from lab.guest.command_line import command_line
from lab.guest.console import read_consoles
from lab.guest.spec import DiskSpec, GuestSpec, create_images
from workers.guest.qmp_ready import monitor_ready
from workers.process import processes
from workers.process.processes import Process
from workers.qemu.monitor import Monitor, connect

FOLDER_VARIABLE = "DROVER_TEST_SAVED_GUESTS"
STATE = "ram.state"
SAVED_WITHIN_S = 60.0
LOOKED_AT_S = 1.0
WRONG_BY = 3


def share_folder() -> None:
    """Name the folder of the saved guests to all processes that this one starts, and delete it when this one ends."""
    if FOLDER_VARIABLE not in os.environ:
        folder = tempfile.mkdtemp(prefix="drover-saved-guests-", dir="/var/tmp")  # some GB: /tmp may be memory
        os.environ[FOLDER_VARIABLE] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def boot(lab: Lab, spec: GuestSpec, host: str, *, by: Sequence[str] = ()) -> Process:
    """As `lab.guests.boot`, from the saved state of a guest of the same kind; `by` is a program that starts it.

    Its qcow2 images have preallocated metadata: QEMU charges their holes to the limit of a copy's bandwidth, so that a
    small disk takes a while.
    """
    spec = replace(spec, disks=tuple(_with_metadata(disk) for disk in spec.disks))
    saved = _saved(spec)
    guests.make_directory(lab, spec, host)
    _copy([saved / spec.console.name, *_images(replace(spec, directory=saved))], spec.directory)
    heard = spec.console.stat().st_size
    started = guests.start(lab, spec, host, "-incoming", f"exec:cat {saved / STATE}", by=by)
    asyncio.run(_go_on(spec, started, guests.log_of(lab, spec)))
    guests.adopt_when_it_writes(lab, spec, host, started, heard)
    return started


def _with_metadata(disk: DiskSpec) -> DiskSpec:
    return replace(disk, preallocation="metadata") if disk.format == "qcow2" else disk


def _images(spec: GuestSpec) -> list[Path]:
    return [spec.image(index) for index in range(len(spec.disks))]


def _copy(files: list[Path], folder: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", *map(str, files), str(folder)], check=True)


async def _go_on(spec: GuestSpec, started: Process, log: Path) -> None:
    await monitor_ready(started, spec.qmp_socket, log)
    async with connect(spec.qmp_socket) as monitor:
        async with asyncio.timeout(SAVED_WITHIN_S):
            while (await monitor.query("query-status"))["status"] == "inmigrate":
                await asyncio.sleep(0.02)
        await monitor.execute("cont")


def _saved(spec: GuestSpec) -> Path:
    """The folder with image files, console and state of a guest of this kind; made by whoever needs it first."""
    share_folder()
    saved = Path(os.environ[FOLDER_VARIABLE]) / _kind(spec)
    with FileLock(saved.with_suffix(".lock")):
        while not saved.exists():
            if _save(replace(spec, directory=saved.with_suffix(".new"))):
                saved.with_suffix(".new").rename(saved)
    return saved


def _kind(spec: GuestSpec) -> str:
    """Equal for guests that differ by their names and places alone."""
    nobody = replace(spec, name="guest", directory=Path("/guest"), uuid=UUID(int=0))
    words = command_line(nobody, boot_files(default_cache()))
    sizes = [f"{disk.size_bytes} {disk.preallocation}" for disk in spec.disks]
    return hashlib.sha256("\0".join([*words, *sizes]).encode()).hexdigest()[:16]


def _save(spec: GuestSpec) -> bool:
    """Whether this one is of use. On a busy machine a kernel may take its clock for one that is many times as slow:
    from then on it does everything too often, and so would all guests that begin as this one.
    """
    shutil.rmtree(spec.directory, ignore_errors=True)
    spec.directory.mkdir()
    create_images(spec)
    log = spec.directory / "qemu.log"
    argv = command_line(spec, boot_files(default_cache()))
    started = processes.spawn(f"{spec.directory}/guest", argv, log)
    try:
        guests.wait_until_it_writes(spec, started, log)
        if not _keeps_time(spec.console):
            return False
        asyncio.run(_save_state(spec))
        assert started.wait(SAVED_WITHIN_S), "the guest whose state was saved does not end"
        return True
    finally:
        started.kill()


def _keeps_time(console: Path) -> bool:
    """Its clock goes about as fast as ours."""
    while not read_consoles([console]).ticks:
        time.sleep(0.05)
    begun, first = time.monotonic(), read_consoles([console]).ticks[-1]
    time.sleep(LOOKED_AT_S)
    passed_ms = 1000 * (time.monotonic() - begun)
    return read_consoles([console]).ticks[-1].ms - first.ms < WRONG_BY * passed_ms


async def _save_state(spec: GuestSpec) -> None:
    async with connect(spec.qmp_socket) as monitor:
        await monitor.execute("stop")
        await monitor.execute("migrate", uri=f"exec:cat > {spec.directory / STATE}")
        async with asyncio.timeout(SAVED_WITHIN_S):
            while (status := await _migration_status(monitor)) != "completed":
                assert status not in {"failed", "cancelled"}, await monitor.query("query-migrate")
                await asyncio.sleep(0.02)
        await monitor.execute("quit")


async def _migration_status(monitor: Monitor) -> str:
    return str((await monitor.query("query-migrate")).get("status"))
