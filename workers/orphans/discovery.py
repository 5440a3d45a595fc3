"""Finds what jobs that have ended left on this host."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import select

from drover.errors import DroverError
from drover.settings import Settings
from models import kept_images
from models.database import transaction
from models.guest import Guest
from models.job import Disk, Job
from workers.orphans.naming import MIRROR, MONITOR_TIMEOUT_S, NUMBER, ROLES, being_moved, made, mirror_names
from workers.orphans.resources import BroughtFile, Directory, Find, Helper, Image, Incoming, OrphanMirror, Retired
from workers.process.processes import Process, marked
from workers.qemu.monitor import connect
from workers.step import JobDirectory


async def finds(settings: Settings) -> tuple[list[tuple[Find, Job | None]], list[str]]:
    """In the order in which they can be removed, each with its job; what unfinished jobs own is left out."""
    mirrors, notes = await _mirrors(settings)
    left = [*_processes(settings), *mirrors, *_files(settings), *_retired(settings)]
    jobs = _jobs({find.job_id for find in left})  # looked up last: a job is written down before it leaves anything
    found = ((find, jobs[find.job_id]) for find in left)
    return [(find, job) for find, job in found if (job is None or job.state.finished) and find.applies(job)], notes


def _jobs(ids: set[int]) -> dict[int, Job | None]:
    with transaction() as session:
        known = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))}
        for job in known.values():
            _ = job.disks
    return {job_id: known.get(job_id) for job_id in ids}


def _processes(settings: Settings) -> list[Find]:
    """Switchover processes first: one might resume a guest. Incoming QEMUs last: others may hold their monitor."""
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
    for mark, process in marked(JobDirectory.all_below(settings)):
        folder, _, role = mark.partition("/")
        if re.fullmatch(NUMBER, folder):
            yield folder, role, process


def _files(settings: Settings) -> list[Find]:
    """Images before the directories that record whose they are."""
    found: list[Find] = []
    folders = JobDirectory.all_below(settings)
    for entry in sorted(folders.iterdir()) if folders.is_dir() else ():
        if re.fullmatch(NUMBER, entry.name) and entry.is_dir() and not entry.is_symlink():
            job_id = int(entry.name)
            brought = JobDirectory(entry).files.files()
            found += [BroughtFile(job_id=job_id, settings=settings, path=path) for path in brought]
            found += [Image(job_id=job_id, settings=settings, path=path) for path in made(JobDirectory(entry))]
            found.append(Directory(job_id=job_id, settings=settings))
    return found


def _retired(settings: Settings) -> list[Find]:
    here = kept_images.on_host() == settings.host
    query = select(Disk.job_id, Disk.retired_path).join(Job).where(here, kept_images.expired())
    with transaction() as session:
        rows = session.execute(query).all()
    paths = ((job_id, Path(str(name))) for job_id, name in rows)
    return [Retired(job_id=job_id, settings=settings, path=path) for job_id, path in paths if path.exists()]


async def _mirrors(settings: Settings) -> tuple[list[Find], list[str]]:
    """Ask the QEMUs of all guests that live here and are not being moved: a running move needs its monitor."""
    found: list[Find] = []
    notes = []
    for guest in _idle_guests(settings.host):
        try:
            async with connect(guest.qmp, timeout_s=MONITOR_TIMEOUT_S) as monitor:
                names = await mirror_names(monitor)
        except DroverError as error:
            notes.append(f"{guest.name} was not asked for mirrors: {error}")
            continue
        for name in sorted(names):
            job_id = int(MIRROR.fullmatch(name)[1])  # type: ignore[index] # only such names are answered
            found.append(OrphanMirror(job_id=job_id, settings=settings, name=name, guest=guest.name, qmp=guest.qmp))
    return found, notes


def _idle_guests(host: str) -> Iterable[Guest]:
    with transaction() as session:
        return session.scalars(select(Guest).where(Guest.host == host, ~being_moved()).order_by(Guest.name)).all()
