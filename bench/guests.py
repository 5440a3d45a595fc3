"""A guest that is moved to and fro, by Drover and by the floor, and checked at the end: a benchmark loses nothing."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.onlooker import Onlooker, Seen
from lab import guests
from lab.directory import Lab
from lab.guest.spec import GuestSpec
from lab.guest.verify import ImageRef, VerifyReport, verify
from models.database import transaction
from models.job import Job, JobState
from workers import processes
from workers.qemu.monitor import MonitorLost, connect
from workflows import guests as records
from workflows import jobs, preflight

FLOOR = Path(__file__).with_name("floor.py")
LONGEST_MOVE_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of a guest, by Drover or by the floor."""

    by: str
    seen: Seen
    total_s: float
    """From the order to the end; of the floor without asking the hosts what the guest is."""
    allocated_bytes: int
    """What the images take at the destination."""
    phases_ms: dict[str, float]
    """What the pause went on; QEMU's part of it and ours."""

    @property
    def overhead_s(self) -> float:
        """What was neither copying disks nor sending RAM."""
        return self.total_s - self.seen.copy_s - self.seen.ram_s


@dataclass
class Guest:
    """A running guest of the lab, and where it is now."""

    lab: Lab
    spec: GuestSpec
    host: str = "host-a"
    left_consoles: list[Path] = field(default_factory=list)

    def move(self, by: str, **options: int) -> Move:
        """Move it to the other host; `options` are those of `jobs.MigrationOptions`."""
        to = "host-b" if self.host == "host-a" else "host-a"
        devices = [f"/machine/peripheral/device{index}/virtio-backend" for index in range(len(self.spec.disks))]
        onlooker = Onlooker(str(self._at(self.host) / "watch.sock"), str(self._at(to) / "watch.sock"), devices)
        asked = jobs.MigrationOptions(**options)
        total_s, phases_ms = self._by_drover(to, asked) if by == "drover" else self._by_floor(to, asked)
        seen = onlooker.join()
        self.moved_to(to)
        if by != "drover":
            records.forget(self.spec.name)
            records.adopt(self.spec.name, to, str(self._at(to) / self.spec.qmp_socket.name))
        allocated = sum(image.path.stat().st_blocks * 512 for image in self._images())
        return Move(by=by, seen=seen, total_s=total_s, allocated_bytes=allocated, phases_ms=phases_ms)

    def _by_drover(self, to: str, asked: jobs.MigrationOptions) -> tuple[float, dict[str, float]]:
        begun = time.time()
        job = jobs.submit(self.spec.name, to, options=asked)
        ended = ended_job(job.id)
        assert ended.finished_at is not None
        return ended.finished_at.timestamp() - begun, (ended.blackout or {}).get("phases", {})

    def _by_floor(self, to: str, asked: jobs.MigrationOptions) -> tuple[float, dict[str, float]]:
        plan = preflight.plan(records.known_guest(self.spec.name), to)
        what = asked.document() | {
            "qmp": plan["source"]["qmp"],
            "argv": plan["destination"]["argv"],
            "destination_qmp": plan["destination"]["qmp"],
            "address": self.lab.host(to).address,
            "folder": str(self.lab.path),
            "disks": plan["disks"],
        }
        order = self.lab.path / "floor.json"
        order.write_text(json.dumps(what))
        environment = os.environ | {processes.MARK: self.lab.mark("floor")}  # so that the lab ends its guest
        begun = time.monotonic()
        with (self.lab.logs / "floor.log").open("ab") as log:
            argv = [sys.executable, str(FLOOR), str(order)]
            said = subprocess.run(
                argv, env=environment, stdout=subprocess.PIPE, stderr=log, check=True, timeout=LONGEST_MOVE_S
            )
        laps = json.loads(said.stdout)
        switch = ("mirror_end", "nbd_close", "device_state", "resume")
        return time.monotonic() - begun, {name: 1000 * laps[name] for name in switch}

    def _at(self, host: str) -> Path:
        return self.lab.host(host).guests / self.spec.name

    def moved_to(self, host: str) -> None:
        """Put the console away and delete what else the guest left behind at the source."""
        folder = self._at(self.host)
        shelf = self.lab.path / "consoles" / self.spec.name
        shelf.mkdir(parents=True, exist_ok=True)
        console = shelf / f"{len(self.left_consoles):03}.log"
        shutil.move(folder / "console.log", console)
        self.left_consoles.append(console)
        shutil.rmtree(folder)
        self.host = host

    def _images(self) -> list[ImageRef]:
        folder = self._at(self.host)
        return [
            ImageRef(folder / self.spec.image(index).name, disk.format, name)
            for index, (disk, name) in enumerate(zip(self.spec.disks, self.spec.disk_names, strict=True))
        ]

    def check(self) -> VerifyReport:
        """Look every acknowledged write up.

        Raises:
            AssertionError: something was lost.
        """
        folder = self._at(self.host)
        consoles = [*self.left_consoles, folder / "console.log"]
        report = asyncio.run(_while_stopped(folder / "qmp.sock", self._images(), consoles))
        assert report.ok, f"{self.spec.name} is damaged: {report.problems}"
        return report


async def _while_stopped(qmp: Path, images: list[ImageRef], consoles: list[Path]) -> VerifyReport:
    async with connect(qmp) as monitor:
        await monitor.execute("stop")
        return await asyncio.to_thread(verify, images, consoles)


def ended_job(job_id: int) -> Job:
    """The job once it is done.

    Raises:
        AssertionError: it was not done, or not in time.
    """
    deadline = time.monotonic() + LONGEST_MOVE_S
    while True:
        with transaction() as session:
            job = session.get_one(Job, job_id)
            _ = job.steps, job.disks
        if job.state.ended:
            assert job.state is JobState.DONE, f"job {job.id} is {job.state}: {job.error}"
            return job
        assert time.monotonic() < deadline, f"job {job.id} is {job.state} after {LONGEST_MOVE_S:g} s"
        time.sleep(0.25)  # by the record's times it is judged; looking often would disturb what is measured


@contextmanager
def booted(lab: Lab, name: str, **load: Any) -> Iterator[Guest]:
    """A guest on host-a for the time of a `with` block; checked at its end, then powered off and forgotten."""
    spec = GuestSpec(name=name, directory=lab.host("host-a").guests / name, **load)
    guests.boot(lab, spec, "host-a")
    guest = Guest(lab, spec)
    yield guest
    guest.check()
    asyncio.run(_power_off(guest))


async def _power_off(guest: Guest) -> None:
    folder = guest.lab.host(guest.host).guests / guest.spec.name
    async with connect(folder / "qmp.sock") as monitor:
        with suppress(MonitorLost):  # QEMU may be gone before it answers
            await monitor.execute("quit")
    records.forget(guest.spec.name)
    shutil.rmtree(folder)
