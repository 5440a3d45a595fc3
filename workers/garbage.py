"""Garbage on this host: what jobs left behind that have ended, found and removed again.

Everything of ours carries the number of its job: directories, marks of processes, names of block jobs and nodes.
So each find is judged by its job alone, as the database has it right before something is removed; `done` and
`undone` are states that no job leaves. When in doubt a thing is kept, and the answer says why: a QEMU is ended
only while its own monitor, held by us, says that it still waits for a guest.
"""

import asyncio
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from models.base import Document
from models.database import transaction
from models.errors import DroverError
from models.guest import Guest
from models.job import Disk, Job, JobState
from models.settings import Settings
from workers import incoming, processes, retirement
from workers.processes import Process
from workers.qemu import block
from workers.qemu.monitor import Monitor, MonitorLost, connect
from workers.step import JobDirectory

ENDED = (JobState.DONE, JobState.UNDONE)
NUMBER = r"[1-9][0-9]{0,17}"
ROLES = re.compile(r"exporter|incoming|switch-[0-9]+")
MIRROR = re.compile(rf"drover-({NUMBER})-[0-9]+")

BUDGET_S = 20.0
"""Nothing is begun later than that: whoever asked waits 30 s for the answer."""
MIRROR_TIMEOUT_S = 8.0
MONITOR_TIMEOUT_S = 2.0


class Kept(DroverError):
    """It stays where it is; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Find(ABC):
    """One thing that a job left on this host."""

    kind: ClassVar[str]
    job_id: int
    settings: Settings

    @property
    def directory(self) -> JobDirectory:
        """The job's directory, there or not."""
        return JobDirectory(self.settings.directory / "jobs" / str(self.job_id))

    @property
    @abstractmethod
    def what(self) -> str:
        """For people: which thing."""

    def applies(self, job: Job | None) -> bool:
        """Whether it is garbage at all once such a job has ended; None: the database knows no such job."""
        return True

    async def check(self, job: Job | None) -> None:  # noqa: B027 - most have nothing against it
        """Raise `Kept` if it must stay whatever else is removed. Looks, changes nothing."""

    @abstractmethod
    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        """Take it away, asking `recheck` right before. Not there any more: fine."""


@dataclass(frozen=True, kw_only=True)
class Helper(Find):
    """An exporter or a switch process."""

    kind = "process"
    role: str
    process: Process

    @property
    def what(self) -> str:
        return f"{self.role} (pid {self.process.pid})"

    async def check(self, job: Job | None) -> None:
        if job is None and self.role != "exporter":
            raise Kept("it may hold a guest paused and lets go by itself: look at it before you end it by hand")

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        recheck()
        self.process.stop() if self.role == "exporter" else self.process.kill()


@dataclass(frozen=True, kw_only=True)
class Incoming(Find):
    """A QEMU that was started to take a guest over. Of a job that is done it is the guest, and no find."""

    kind = "qemu"
    process: Process

    @property
    def what(self) -> str:
        return f"incoming QEMU (pid {self.process.pid})"

    def applies(self, job: Job | None) -> bool:
        return job is None or job.state is JobState.UNDONE

    async def check(self, job: Job | None) -> None:
        await self._while_it_waits(job, lambda: None)

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        def end() -> None:
            recheck()
            self.process.kill()

        if self.process.alive:
            await self._while_it_waits(job, end)
        _unlink_dead_sockets(job, self.settings)

    async def _while_it_waits(self, job: Job | None, act: Callable[[], None]) -> None:
        """Act while we hold its only monitor and it says that no guest is in it: nobody can let one run meanwhile."""
        if job is None or _qmp(job) is None:
            raise Kept("for which guest it is cannot be told: look at it before you end it by hand")
        if self.directory.may_run_here:
            raise Kept(f"{job.guest} may have been let run in it: look at it before you end it by hand")
        _no_living_job(job.guest)  # the monitor's place may be that job's by now, and it must not find it taken
        try:
            async with connect(str(_qmp(job)), timeout_s=MONITOR_TIMEOUT_S) as monitor:
                await self._waits(monitor)
                act()
        except MonitorLost as error:
            raise Kept(f"whether a guest runs in it cannot be told: {error}") from error

    async def _waits(self, monitor: Monitor) -> None:
        if monitor.pid != self.process.pid:
            raise Kept(
                f"its monitor's place is taken by pid {monitor.pid}, so it cannot say whether a guest runs in it"
            )
        runstate = (await monitor.query("query-status", timeout_s=MONITOR_TIMEOUT_S))["status"]
        if runstate != "inmigrate":
            raise Kept(f"it is {runstate}, so it may be a guest: look at it before you end it by hand")


@dataclass(frozen=True, kw_only=True)
class Mirror(Find):
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
                await block.drop_mirrors(monitor, sorted(await _mirror_names(monitor)))
            if self.name in await _mirror_names(monitor):
                raise Kept("QEMU does not let go of it")


@dataclass(frozen=True, kw_only=True)
class Image(Find):
    """An image that the job made. Of a job that is done it belongs to the guest, and is no find."""

    kind = "image"
    path: Path

    @property
    def what(self) -> str:
        return f"image {self.path}"

    def applies(self, job: Job | None) -> bool:
        return job is not None and job.state is JobState.UNDONE

    async def check(self, job: Job | None) -> None:
        if job is None or str(self.path) not in _images(job, self.settings.host):
            raise Kept(f"job {self.job_id} was to make no such image here")
        with transaction() as session:
            if session.get_one(Guest, job.guest).host == self.settings.host:
                raise Kept(f"{job.guest} lives on this host now: it may be its image")
            if other := _other_owner(session, job, str(self.path)):
                raise Kept(f"job {other} has an image of that name here")

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        if user := _user(self.path):
            raise Kept(f"process {user} has it open")
        recheck()
        if self.directory.manifest.owns(self.path):
            self.path.unlink()


@dataclass(frozen=True, kw_only=True)
class Directory(Find):
    """The job's directory. It goes last, since it tells what the job made."""

    kind = "directory"

    @property
    def what(self) -> str:
        return f"directory {self.directory.path}"

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        self._needed(job)
        recheck()
        _unlink_dead_sockets(job, self.settings)
        if job is not None and job.state is JobState.UNDONE:
            self.directory.manifest.delete_all()  # only folders are left to it, and only empty ones go
        self.directory.remove()
        if self.directory.path.exists():
            raise Kept("it could not be deleted")

    def _needed(self, job: Job | None) -> None:
        roles = {role for role, _ in _marked(self.directory.path)}
        if job is not None and job.state is JobState.DONE:
            roles.discard("incoming")  # the guest
        if roles:
            raise Kept(f"still in use by: {', '.join(sorted(roles))}")
        if (job is None or job.state is JobState.UNDONE) and (made := _made(self.directory)):
            raise Kept(f"it tells who made {', '.join(map(str, made))}, and that is still there")


@dataclass(frozen=True, kw_only=True)
class Retired(Find):
    """An image that a guest left behind here, kept for long enough."""

    kind = "retired"
    path: Path

    @property
    def what(self) -> str:
        return f"retired image {self.path}"

    async def remove(self, job: Job | None, recheck: Callable[[], None]) -> None:
        recheck()
        retirement.delete_expired(self.settings)
        if self.path.exists():
            raise Kept("somebody else is deleting it just now")


async def look(question: Document, settings: Settings) -> Document:
    """What no living job owns here; `question` is {"unknown_jobs": those are garbage as well}.

    Answers {"finds": [{"kind", "what", "job", "why", "removed": false, "kept": why it would stay, or null}],
    "notes": sentences on what could not be looked at}.
    """
    finds, notes = await _finds(settings)
    return {"finds": [await _shown(find, job, question["unknown_jobs"]) for find, job in finds], "notes": notes}


async def collect(question: Document, settings: Settings) -> Document:
    """Remove it; question and answer are those of `look`. What is gone already is not found: twice does no harm."""
    deadline = time.monotonic() + BUDGET_S
    finds, notes = await _finds(settings)
    return {
        "finds": [await _removed(find, job, question["unknown_jobs"], deadline) for find, job in finds],
        "notes": notes,
    }


async def _shown(find: Find, job: Job | None, unknown_jobs: bool) -> Document:
    try:
        _ended(find.job_id, unknown_jobs)
        await find.check(job)
    except Kept as kept:
        return _document(find, job, kept=str(kept))
    return _document(find, job)


async def _removed(find: Find, job: Job | None, unknown_jobs: bool, deadline: float) -> Document:
    def recheck() -> None:
        _ended(find.job_id, unknown_jobs)

    try:
        if time.monotonic() > deadline:
            raise Kept("there was no time left: run it again")
        recheck()
        await find.check(job)
        await find.remove(job, recheck)
    except (DroverError, OSError) as error:  # TimeoutError is an OSError
        return _document(find, job, kept=str(error) or "it took too long")
    return _document(find, job, removed=True)


def _document(find: Find, job: Job | None, *, removed: bool = False, kept: str | None = None) -> Document:
    why = "the database knows no such job" if job is None else f"the job is {job.state}"
    if isinstance(find, Retired):
        why += ", and it was kept long enough"
    return {"kind": find.kind, "what": find.what, "job": find.job_id, "why": why, "removed": removed, "kept": kept}


def _ended(job_id: int, unknown_jobs: bool) -> None:
    """Asked right before anything is removed.

    Raises:
        Kept: the job has not ended, or is unknown and that is not enough.
    """
    with transaction() as session:
        state = session.scalar(select(Job.state).where(Job.id == job_id))
    if state is None and not unknown_jobs:
        raise Kept("that is no proof that it has ended: `drover gc --unknown-jobs` removes it")
    if state is not None and state not in ENDED:
        raise Kept(f"job {job_id} is {state}")


async def _finds(settings: Settings) -> tuple[list[tuple[Find, Job | None]], list[str]]:
    """In the order in which they can be removed, each with its job; what living jobs own is left out."""
    mirrors, notes = await _mirrors(settings)
    left = [*_processes(settings), *mirrors, *_files(settings), *_retired(settings)]
    jobs = _jobs({find.job_id for find in left})  # looked up last: a job is written down before it leaves anything
    ended = ((find, jobs[find.job_id]) for find in left if _is_over(jobs[find.job_id]))
    return [(find, job) for find, job in ended if find.applies(job)], notes


def _is_over(job: Job | None) -> bool:
    return job is None or job.state in ENDED


def _jobs(ids: set[int]) -> dict[int, Job | None]:
    with transaction() as session:
        known = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))}
        for job in known.values():
            _ = job.disks
    return {job_id: known.get(job_id) for job_id in ids}


def _processes(settings: Settings) -> list[Find]:
    """Switch processes first: one of them might let a guest run. Incoming QEMUs last: others may hold their monitor."""
    helpers: list[Find] = []
    waiting: list[Find] = []
    for folder, role, process in _marked_by_job(settings):
        job_id = int(folder)
        if role == "incoming":
            waiting.append(Incoming(job_id=job_id, settings=settings, process=process))
        elif ROLES.fullmatch(role):
            helpers.append(Helper(job_id=job_id, settings=settings, role=role, process=process))
    return sorted(helpers, key=lambda find: find.what, reverse=True) + waiting


def _marked_by_job(settings: Settings) -> Iterator[tuple[str, str, Process]]:
    for mark, process in _marked(settings.directory / "jobs"):
        folder, _, role = mark.partition("/")
        if re.fullmatch(NUMBER, folder):
            yield folder, role, process


def _marked(folder: Path) -> Iterator[tuple[str, Process]]:
    """The living processes whose mark lies below the folder, with the rest of their mark."""
    start = f"{processes.MARK}={folder}/"
    for process in processes.find_below(folder):
        with suppress(OSError):  # it ended meanwhile
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace")
            marks = (entry for entry in environment.split("\0") if entry.startswith(start))
            yield from ((mark.removeprefix(start), process) for mark in marks)


def _files(settings: Settings) -> list[Find]:
    """Images before the directories that tell whose they are."""
    found: list[Find] = []
    folders = settings.directory / "jobs"
    for entry in sorted(folders.iterdir()) if folders.is_dir() else ():
        if re.fullmatch(NUMBER, entry.name) and entry.is_dir() and not entry.is_symlink():
            job_id = int(entry.name)
            found += [Image(job_id=job_id, settings=settings, path=path) for path in _made(JobDirectory(entry))]
            found.append(Directory(job_id=job_id, settings=settings))
    return found


def _made(directory: JobDirectory) -> list[Path]:
    """The files made by the job, as far as they are still there."""
    with suppress(FileNotFoundError):
        recorded = json.loads(directory.manifest.path.read_text())["files"]
        return [Path(name) for name in recorded if directory.manifest.owns(Path(name))]
    return []


def _retired(settings: Settings) -> list[Find]:
    query = (
        select(Disk.job_id, Disk.retired_path)
        .join(Job)
        .where(Job.source == settings.host, Disk.retired_until <= func.clock_timestamp())
    )
    with transaction() as session:
        rows = session.execute(query).all()
    paths = ((job_id, Path(str(name))) for job_id, name in rows)
    return [Retired(job_id=job_id, settings=settings, path=path) for job_id, path in paths if path.exists()]


async def _mirrors(settings: Settings) -> tuple[list[Find], list[str]]:
    """Ask the QEMUs of all guests that live here and are not being moved: whoever moves one needs its monitor."""
    found: list[Find] = []
    notes = []
    for guest in _idle_guests(settings.host):
        try:
            async with connect(guest.qmp, timeout_s=MONITOR_TIMEOUT_S) as monitor:
                names = await _mirror_names(monitor)
        except DroverError as error:
            notes.append(f"{guest.name} was not asked for mirrors: {error}")
            continue
        for name in sorted(names):
            job_id = int(MIRROR.fullmatch(name)[1])  # type: ignore[index] # only such names are answered
            found.append(Mirror(job_id=job_id, settings=settings, name=name, guest=guest.name, qmp=guest.qmp))
    return found, notes


async def _mirror_names(monitor: Monitor) -> set[str]:
    """The block jobs and nodes with names of ours."""
    names = {job["id"] for job in await monitor.query("query-jobs", MONITOR_TIMEOUT_S)}
    nodes = await monitor.query("query-named-block-nodes", MONITOR_TIMEOUT_S, flat=True)
    names |= {node["node-name"] for node in nodes}
    return {name for name in names if MIRROR.fullmatch(name)}


def _idle_guests(host: str) -> Iterable[Guest]:
    with transaction() as session:
        return session.scalars(select(Guest).where(Guest.host == host, ~_being_moved()).order_by(Guest.name)).all()


def _being_moved() -> ColumnElement[bool]:
    return exists().where(Job.guest == Guest.name, Job.state.not_in(ENDED))


def _no_living_job(guest: str) -> None:
    with transaction() as session:
        if session.scalar(select(Guest.name).where(Guest.name == guest, _being_moved())):
            raise Kept(f"{guest} is being moved by another job just now")


def _other_owner(session: Session, job: Job, path: str) -> int | None:
    """Another job that brought, or is to bring, an image to this path, or took it away from there."""
    there = (Disk.destination_path == path) & (Job.destination == job.destination)
    from_there = (Disk.source_path == path) & (Job.source == job.destination)
    query = select(Job.id).join(Disk).where(Job.id != job.id, Job.state != JobState.UNDONE, or_(there, from_there))
    return session.scalar(query.limit(1))


def _images(job: Job, host: str) -> set[str]:
    return {disk.destination_path for disk in job.disks} if job.destination == host else set()


def _qmp(job: Job) -> str | None:
    """Where the incoming QEMU's monitor listens; None for a job that was refused before it had a plan."""
    planned = job.plan.get("destination")
    return None if planned is None else str(planned["qmp"])


def _unlink_dead_sockets(job: Job | None, settings: Settings) -> None:
    """The sockets of an incoming QEMU that is dead; nobody else's."""
    if job is None or job.state is not JobState.UNDONE or job.destination != settings.host or _qmp(job) is None:
        return
    with transaction() as session:
        elsewhere = session.scalar(
            select(Guest.name).where(Guest.name == job.guest, Guest.host != settings.host, ~_being_moved())
        )
    if elsewhere:
        incoming.unlink_dead(job.plan["destination"])


def _user(path: Path) -> int | None:
    """A process that has this file open."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return None
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            status = descriptor.stat()
            if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                return int(descriptor.parts[2])
    return None
