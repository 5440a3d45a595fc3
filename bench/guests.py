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

from bench.baseline import Qmp
from bench.observer import Observer, Seen
from lab import guests
from lab.directory import Lab
from lab.guest.spec import GuestSpec
from lab.guest.verify import ImageRef, VerifyReport, verify
from models.database import transaction
from models.documents import Downtime, MigrationOptions
from models.job import Job, JobState
from workers.process import processes
from workers.qemu.monitor import MonitorLost, connect
from workflows import guests as records
from workflows.migration import jobs, preflight

FLOOR = Path(__file__).with_name("floor.py")
LONGEST_MOVE_S = 1800.0
LOOK_S = 2.0
"""A job is judged by the times in its record. Four looks a second, at all its rows, took 2 % of a core from the guest,
which the moves of the floor had for themselves."""


@dataclass(frozen=True)
class Times:
    """When a move was ordered and when it was over, in seconds since 1970."""

    begun_at: float
    """Of the floor without asking the hosts what the guest is."""
    ended_at: float
    phases_ms: dict[str, float] = field(default_factory=dict)
    """The parts of the pause, as the mover itself measured them."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of a guest."""

    by: str
    seen: Seen
    times: Times
    allocated_bytes: int
    """What the images take at the destination."""

    @property
    def total_s(self) -> float:
        """From the order to the end."""
        return self.times.ended_at - self.times.begun_at

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

    def move(self, by: str, *, floor: dict[str, Any] | None = None, **options: Any) -> Move:
        """Move it to the other host; `options` are those of `MigrationOptions`, `floor` what that is to try."""
        to, observer = self.other_host, self.observer()
        times = self._moved(by, to, MigrationOptions.model_validate(options), floor or {})
        seen = observer.join()
        self.moved_to(to)
        allocated = sum(image.path.stat().st_blocks * 512 for image in self._images())
        return Move(by=by, seen=seen, times=times, allocated_bytes=allocated)

    @property
    def other_host(self) -> str:
        """Of the two that it is moved between."""
        return "host-b" if self.host == "host-a" else "host-a"

    def observer(self) -> Observer:
        """Of its next move."""
        return Observer(str(self.watch_at(self.host)), str(self.watch_at(self.other_host)), self.devices)

    @property
    def devices(self) -> list[str]:
        """Its disks' paths in QEMU's tree of objects."""
        return [f"/machine/peripheral/device{index}/virtio-backend" for index in range(len(self.spec.disks))]

    def _moved(self, by: str, to: str, asked: MigrationOptions, floor: dict[str, Any]) -> Times:
        if by == "drover":
            return self._by_drover(to, asked)
        times = self._by_floor(to, asked, floor)
        records.forget(self.spec.name)
        records.adopt(self.spec.name, to, str(self._at(to) / self.spec.qmp_socket.name))
        return times

    def _by_drover(self, to: str, asked: MigrationOptions) -> Times:
        begun = time.time()
        job = jobs.submit(self.spec.name, to, options=asked)
        ended = ended_job(job.id)
        assert ended.finished_at is not None
        return Times(begun, ended.finished_at.timestamp(), (ended.downtime or Downtime()).phases)

    def _by_floor(self, to: str, asked: MigrationOptions, floor: dict[str, Any]) -> Times:
        plan = preflight.plan(records.known_guest(self.spec.name), to)
        what = asked.public() | {
            **floor,
            "qmp": plan.source.qmp,
            "argv": list(plan.destination.argv),
            "destination_qmp": plan.destination.qmp,
            "address": self.lab.host(to).address,
            "folder": str(self.lab.path),
            "disks": [disk.json_object() for disk in plan.disks],
        }
        order = self.lab.path / "floor.json"
        order.write_text(json.dumps(what))
        environment = os.environ | {processes.MARK: self.lab.mark("floor")}  # so that the lab ends its guest
        begun = time.time()
        with (self.lab.logs / "floor.log").open("ab") as log:
            argv = [sys.executable, str(FLOOR), str(order)]
            said = subprocess.run(
                argv, env=environment, stdout=subprocess.PIPE, stderr=log, check=True, timeout=LONGEST_MOVE_S
            )
        ended, laps = time.time(), json.loads(said.stdout)
        switch = ("mirror_end", "nbd_close", "device_state", "resume")
        return Times(begun, ended, {name: 1000 * laps[name] for name in switch})

    def _at(self, host: str) -> Path:
        return self.lab.host(host).guests / self.spec.name

    def watch_at(self, host: str) -> Path:
        """Its second monitor there."""
        return self._at(host) / self.spec.watch_socket.name

    def moved_to(self, host: str, *, images_stay: bool = False) -> None:
        """Put the console away and delete what else the guest left behind at the source."""
        folder = self._at(self.host)
        shelf = self.lab.path / "consoles" / self.spec.name
        shelf.mkdir(parents=True, exist_ok=True)
        console = shelf / f"{len(self.left_consoles):03}.log"
        shutil.move(folder / "console.log", console)
        self.left_consoles.append(console)
        if not images_stay:
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
        consoles = [*self.left_consoles, self._at(self.host) / "console.log"]
        report = asyncio.run(_while_stopped(self.watch_at(self.host), self._images(), consoles))
        assert report.ok, f"{self.spec.name} is damaged: {report.problems}"
        return report

    def rest(self) -> None:
        """Stop it while another guest is measured, which it would take CPU from."""
        Qmp(str(self.watch_at(self.host))).run("stop")

    def go_on(self) -> None:
        """After `rest`."""
        Qmp(str(self.watch_at(self.host))).run("cont")


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
        time.sleep(LOOK_S)
        with transaction() as session:
            job = session.get_one(Job, job_id)
            if job.state.settled:
                _ = job.steps, job.disks
        if job.state.settled:
            assert job.state is JobState.DONE, f"job {job.id} is {job.state}: {job.error}"
            return job
        assert time.monotonic() < deadline, f"job {job.id} is {job.state} after {LONGEST_MOVE_S:g} s"


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
