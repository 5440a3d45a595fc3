"""The kinds of garbage: what each is, when it must be kept, and how it is removed."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from drover.errors import DroverError, Fatal
from drover.settings import Settings
from models.database import transaction
from models.guest import Guest
from models.job import Disk, Job, JobState, Side
from models.plan import Plan
from workers import files
from workers.guest import incoming_qemu
from workers.images import retention
from workers.media import placing
from workers.orphans.naming import MONITOR_TIMEOUT_S, being_moved, made, mirror_names
from workers.process.processes import Process, having_open, marked
from workers.qemu import block
from workers.qemu.monitor import Monitor, MonitorLost, connect
from workers.step import JobDirectory
from workers.trust import held_plan, policy

MIRROR_TIMEOUT_S = 8.0
SAFE_TO_END = {"exporter", "streams", "files"}
"""Roles of processes that never hold a guest paused."""


class Kept(DroverError):
    """It is kept; the text has the reason."""


@dataclass(frozen=True, kw_only=True)
class Find(ABC):
    """One thing that a job left on this host."""

    kind: ClassVar[str]
    job_id: int
    settings: Settings

    @property
    def directory(self) -> JobDirectory:
        """The job's directory, there or not."""
        return JobDirectory.of(self.job_id, self.settings)

    @property
    @abstractmethod
    def what(self) -> str:
        """Which thing it is, for output."""

    def applies(self, job: Job | None) -> bool:
        """Whether it is garbage at all once such a job has ended; None: the database has no such job."""
        return True

    async def check(self, job: Job | None) -> None:  # noqa: B027 - most are never kept
        """Raise `Kept` if it must stay whatever else is removed. Looks, changes nothing."""

    @abstractmethod
    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        """Remove it, after a call of `recheck` right before. If it is gone already, nothing happens."""


@dataclass(frozen=True, kw_only=True)
class Helper(Find):
    """An NBD server, an end of the streams, a receiver of files, a switchover process or its guardian."""

    kind = "process"
    role: str
    process: Process

    @property
    def what(self) -> str:
        return f"{self.role} (pid {self.process.pid})"

    async def check(self, job: Job | None) -> None:
        if job is None and self.role not in SAFE_TO_END:
            raise Kept("it may hold a guest paused, and resumes it by itself: look at it before you end it by hand")

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        recheck()
        await (self.process.end() if self.role == "exporter" else self.process.end_now())


@dataclass(frozen=True, kw_only=True)
class Incoming(Find):
    """A QEMU that was started to receive a guest. Of a job that is done it is the guest, and not garbage."""

    kind = "qemu"
    process: Process

    @property
    def what(self) -> str:
        return f"incoming QEMU (pid {self.process.pid})"

    def applies(self, job: Job | None) -> bool:
        return job is None or job.state is JobState.ROLLED_BACK

    async def check(self, job: Job | None) -> None:
        await self._while_it_waits(job)

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        async def end() -> None:
            recheck()
            await self.process.end_now()

        if self.process.alive:
            await self._while_it_waits(job, end)
        _unlink_dead_sockets(job, self.directory, self.settings)

    async def _while_it_waits(self, job: Job | None, act: Callable[[], Awaitable[None]] | None = None) -> None:
        """Act while we hold its only monitor and it reports no guest in it: no other process can resume one now."""
        plan = None if job is None else _plan(job, self.directory, self.settings)
        if job is None or plan is None:
            raise Kept("its guest is unknown: look at it before you end it by hand")
        if self.directory.may_run_here:
            raise Kept(f"{job.guest} may run in it: look at it before you end it by hand")
        _no_living_job(job.guest)  # that job may have its monitor there by now, and must find it free
        try:
            async with connect(plan.destination.qmp, timeout_s=MONITOR_TIMEOUT_S) as monitor:
                await self._waits(monitor)
                if act is not None:
                    await act()
        except MonitorLost as error:
            raise Kept(f"it is unknown whether a guest runs in it: {error}") from error

    async def _waits(self, monitor: Monitor) -> None:
        if monitor.pid != self.process.pid:
            raise Kept(
                f"its monitor's socket belongs to pid {monitor.pid}, so it is unknown whether a guest runs in it"
            )
        runstate = (await monitor.query("query-status", timeout_s=MONITOR_TIMEOUT_S))["status"]
        if runstate != "inmigrate":
            raise Kept(f"it is {runstate}, so it may be a guest: look at it before you end it by hand")


@dataclass(frozen=True, kw_only=True)
class OrphanMirror(Find):
    """A block job, its NBD client node, or both, in the QEMU of a guest that lives here."""

    kind = "mirror"
    name: str
    guest: str
    qmp: str

    @property
    def what(self) -> str:
        return f"{self.name} in the QEMU of {self.guest}"

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        def guard() -> None:
            recheck()
            _no_living_job(self.guest)

        async with connect(self.qmp, guard, MONITOR_TIMEOUT_S) as monitor:
            async with asyncio.timeout(MIRROR_TIMEOUT_S):
                await block.drop_mirrors(monitor, sorted(await mirror_names(monitor)))
            if self.name in await mirror_names(monitor):
                raise Kept("QEMU did not remove it")


@dataclass(frozen=True, kw_only=True)
class Image(Find):
    """An image that the job made. Of a job that is done it belongs to the guest, and is not garbage."""

    kind = "image"
    path: Path

    @property
    def what(self) -> str:
        return f"image {self.path}"

    def applies(self, job: Job | None) -> bool:
        return job is not None and job.state is JobState.ROLLED_BACK

    async def check(self, job: Job | None) -> None:
        if job is None or str(self.path) not in _images(job, self.settings.host):
            raise Kept(f"job {self.job_id} was to make no such image here")
        with transaction() as session:
            if session.get_one(Guest, job.guest).host == self.settings.host:
                raise Kept(f"{job.guest} lives on this host now: it may be its image")
            if other := _other_owner(session, job, str(self.path)):
                raise Kept(f"job {other} has an image of that name here")

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        with suppress(FileNotFoundError):
            if users := having_open(self.path):
                raise Kept(f"process {users[0].pid} has it open")
        recheck()
        if self.directory.manifest.owns(self.path):
            files.unlink(self.path)
        elif self.directory.volumes.read():
            await asyncio.to_thread(self.directory.volumes.remove, self.path, policy.of(self.settings))


@dataclass(frozen=True, kw_only=True)
class BroughtFile(Find):
    """A file that the job copied for its guest, besides its images. Of a job that is done it is the guest's."""

    kind = "file"
    path: Path

    @property
    def what(self) -> str:
        return f"file {self.path}"

    def applies(self, job: Job | None) -> bool:
        return job is not None and job.state is JobState.ROLLED_BACK

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        recheck()
        if not await asyncio.to_thread(placing.take_back_one, self.path, self.directory, self.settings.directory):
            raise Kept("others use it by now")


@dataclass(frozen=True, kw_only=True)
class Directory(Find):
    """The job's directory. It is removed last, since it records what the job made."""

    kind = "directory"

    @property
    def what(self) -> str:
        return f"directory {self.directory.path}"

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        self._needed(job)
        recheck()
        _unlink_dead_sockets(job, self.directory, self.settings)
        if job is not None and job.state is JobState.ROLLED_BACK:
            for record in (self.directory.manifest, self.directory.files):
                record.delete_all()  # only folders are left in it, and only empty ones are removed
        self.directory.remove()
        if self.directory.path.exists():
            raise Kept("it could not be deleted")

    def _needed(self, job: Job | None) -> None:
        roles = {role for role, _ in marked(self.directory.path)}
        if job is not None and job.state is JobState.DONE:
            roles.discard("incoming")  # the guest
        if roles:
            raise Kept(f"still in use by: {', '.join(sorted(roles))}")
        if (job is None or job.state is JobState.ROLLED_BACK) and (
            still := [*made(self.directory), *self.directory.files.files()]
        ):
            raise Kept(f"it records which job made {', '.join(map(str, still))}, and that still exists")


@dataclass(frozen=True, kw_only=True)
class Retired(Find):
    """An image that a guest left behind here, kept for long enough."""

    kind = "retired"
    path: Path

    @property
    def what(self) -> str:
        return f"retired image {self.path}"

    async def check(self, job: Job | None) -> None:
        if not retention.knows(self.settings, self.job_id, self.path):
            raise Kept("this host did not set it aside")

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        recheck()
        retention.delete_expired(self.settings)
        if retention.knows(self.settings, self.job_id, self.path):
            raise Kept("another process is deleting it now")


def _no_living_job(guest: str) -> None:
    with transaction() as session:
        if session.scalar(select(Guest.name).where(Guest.name == guest, being_moved())):
            raise Kept(f"{guest} is being moved by another job just now")


def _other_owner(session: Session, job: Job, path: str) -> int | None:
    """Another job that brought, or is to bring, an image to this path, or took it away from there."""
    there = (Disk.destination_path == path) & (Job.destination == job.destination)
    from_there = (Disk.source_path == path) & (Job.source == job.destination)
    query = select(Job.id).join(Disk).where(Job.id != job.id, Job.state != JobState.ROLLED_BACK, or_(there, from_there))
    return session.scalar(query.limit(1))


def _images(job: Job, host: str) -> set[str]:
    return {disk.destination_path for disk in job.disks} if job.destination == host else set()


def _plan(job: Job, directory: JobDirectory, settings: Settings) -> Plan | None:
    """By which this host took part in the job; None if nothing proves one."""
    with suppress(Fatal):
        return held_plan.followed(directory.path, job, Side.DESTINATION, settings)
    return None


def _unlink_dead_sockets(job: Job | None, directory: JobDirectory, settings: Settings) -> None:
    """The sockets of an incoming QEMU that is dead; nobody else's."""
    if job is None or job.state is not JobState.ROLLED_BACK or job.destination != settings.host:
        return
    plan = _plan(job, directory, settings)
    if plan is None:
        return
    with transaction() as session:
        elsewhere = session.scalar(
            select(Guest.name).where(Guest.name == job.guest, Guest.host != settings.host, ~being_moved())
        )
    if elsewhere:
        incoming_qemu.unlink_dead(plan.destination, settings)
