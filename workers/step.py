"""The contract of a step. Read this first.

A step looks (`verify`), acts (`do`) and can take its effect away (`rollback`). It may die anywhere and be begun
again by another process, so `do` and `rollback` look at QEMU and the disk and do only what is missing. The input
of a step is its `Context`; all that it writes to the database goes through `Context.note` and `Context.record`.
"""

import fcntl
import os
import shutil
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from sqlalchemy.orm import Session

from drover import names
from drover.errors import Fatal, LeaseLost
from drover.settings import Settings
from models.documents import NbdServer, Switchover
from models.event_action import EventAction
from models.job import Job, Side, record_event
from models.job import Step as StepRow
from models.job_folder import ClosedImages, RecordedNodes, SlowedWrites
from models.plan import DestinationPlan, Inspection, Plan, PlannedDisk
from models.sample import Rates
from workers import files
from workers.announcing import Announcer
from workers.document_file import DocumentFile
from workers.guest import run_marker
from workers.images.manifest import Manifest
from workers.images.records import ImageRecord
from workers.process import processes
from workers.process.processes import Process
from workers.qemu import monitor
from workers.storage.volumes import Volumes
from workers.trust import held_plan
from workflows.migration.claims import Claim, fenced, note
from workflows.migration.links import ONCE_COMMITTED

Known = TypeVar("Known")


@dataclass(frozen=True)
class JobDirectory:
    """Where a host keeps what belongs to one job while it is under way."""

    path: Path

    @staticmethod
    def all_below(settings: Settings) -> Path:
        """The folder that holds those of all jobs."""
        return settings.directory / "jobs"

    @classmethod
    def of(cls, job_id: int, settings: Settings) -> Self:
        """A job's, there or not."""
        return cls(cls.all_below(settings) / str(int(job_id)))

    @property
    def nbd_server_qmp(self) -> Path:
        """Monitor of the storage daemon that serves the destination's images."""
        return self.path / "exporter.qmp"

    def socket(self, stream: str) -> Path:
        """The Unix socket of one of the job's streams, see `workers.streams`."""
        return self.path / f"{stream}.sock"

    @property
    def guest_socket(self) -> Path:
        """Where the guest's QEMU, whatever user it runs as, connects to its images on the other host."""
        return self.path.parents[1] / "streams" / f"{self.path.name}.sock"

    @property
    def streams(self) -> Path:
        """What the process that carries the streams is told."""
        return self.path / "streams.json"

    @property
    def peer_key(self) -> Path:
        """By which key this host believed the other one when the job's streams began."""
        return self.path / "peer.key"

    @property
    def manifest(self) -> Manifest:
        """What the job created on this host."""
        return Manifest(self.path / "created.json")

    @property
    def volumes(self) -> Volumes:
        """The block devices that it made or took on this host."""
        return Volumes(self.path / "devices.json")

    def owns(self, path: Path) -> bool:
        """Whether the file or block device at this path is the job's."""
        return self.manifest.owns(path) or self.volumes.owns(path)

    @property
    def files(self) -> Manifest:
        """What it put here of what its guest needs besides its disks, see `workers.media`."""
        return Manifest(self.path / "files.json")

    @property
    def source_images(self) -> ImageRecord:
        """The guest's images on its source, before they are set aside."""
        return ImageRecord(self.path / "images.json")

    @property
    def slowed(self) -> DocumentFile[SlowedWrites]:
        """How slowly the guest may write for this move, see `workers.disks.slow_writes`."""
        return DocumentFile(self.path / "slowed.json", SlowedWrites)

    def switch_journal(self, side: Side, attempt: int) -> Path:
        """What the switchover process of one attempt did."""
        return self._of_switchover(side, attempt, "jsonl")

    def switch_journals(self, side: Side) -> list[tuple[int, Path]]:
        """Those of all attempts begun on this side, oldest first, each with its attempt."""
        return self._numbered(side, "jsonl")

    def terms_file(self, side: Side, attempt: int) -> Path:
        """On what terms the RAM of one attempt is sent now, see `switchover.parameters.Terms`."""
        return self._of_switchover(side, attempt, "terms")

    def parameters_file(self, side: Side, number: int) -> Path:
        """What the switchover process of this number is to do: it begins when that is there."""
        return self._of_switchover(side, number, "json")

    def parameters_files(self, side: Side) -> list[tuple[int, Path]]:
        """Those given to processes of this side so far, each with the process's number."""
        return self._numbered(side, "json")

    def _of_switchover(self, side: Side, number: int | str, kind: str) -> Path:
        return self.path / f"switch-{side}-{number}.{kind}"

    def _numbered(self, side: Side, kind: str) -> list[tuple[int, Path]]:
        found = self.path.glob(self._of_switchover(side, "*", kind).name)
        return sorted((int(number), path) for path in found if (number := path.stem.rpartition("-")[2]).isdigit())

    @property
    def marker(self) -> Path:
        """Exists, and is set, once this host may have resumed the guest: written before `cont` is sent."""
        return self.path / "may-run-here"

    def remove(self) -> None:
        """The job is over on this host."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.guest_socket.unlink(missing_ok=True)

    @property
    def may_run_here(self) -> bool:
        """The marker was written."""
        return run_marker.is_set(self.marker)

    @property
    def recorded_nodes(self) -> DocumentFile[RecordedNodes]:
        """Where it is recorded what the guest writes at the destination, see `workers.qemu.written`."""
        return DocumentFile(self.path / "written.json", RecordedNodes)

    @property
    def closed_images(self) -> DocumentFile[ClosedImages]:
        """At the destination, once the move is rolled back."""
        return DocumentFile(self.path / "closed.json", ClosedImages)

    def mark(self, role: str) -> str:
        """The name in a process's environment by which it is found again."""
        return f"{self.path}/{role}"

    def incoming_log(self, guest: str) -> Path:
        """Output of the guest's QEMU, which outlives the job.

        Raises:
            PreconditionFailed: no guest can be called that.
        """
        names.check(guest, "a guest")
        return self.path.parents[1] / "guests" / f"{guest}.log"

    def log(self, role: str) -> Path:
        """Where such a process's output goes."""
        return self.path / f"{role}.log"


@dataclass(kw_only=True)
class Context:
    """The input of a step: its claim, its job as it was when the step was claimed, this host."""

    claim: Claim
    settings: Settings
    announcer: Announcer | None = None
    remark: str | None = field(default=None, init=False)
    """What the step has said of what holds it up."""
    _proven: Plan | None = field(default=None, init=False)
    _held: Plan | None = field(default=None, init=False)

    @property
    def job(self) -> Job:
        """Steps write their findings into it, and by `record` into the database."""
        return self.claim.job

    @property
    def directory(self) -> JobDirectory:
        """The job's directory on this host."""
        return JobDirectory.of(self.job.id, self.settings)

    @property
    def plan(self) -> Plan:
        """What this host holds to: proven by a signature, not what the job's row says now.

        Raises:
            Fatal: it is not proven.
        """
        if self.held is not None:
            return self.held
        if self._proven is None:
            self._proven = held_plan.proven(self.job, self.claim.side, self.settings)
        return self._proven

    @property
    def held(self) -> Plan | None:
        """The plan by which this host has begun to act. Nothing that needs one was done here if there is none."""
        if self._held is None:
            self._held = held_plan.held(self.directory.path)
        return self._held

    @property
    def disks(self) -> tuple[PlannedDisk, ...]:
        """The guest's disks by their index: paths come from here, never from the rows of `job.disks`."""
        return self.plan.disks

    def only_own_images(self) -> None:
        """Asked before an image is served or opened on the destination.

        Raises:
            Fatal: one of them was not made by this job.
        """
        for disk in self.disks:
            if not self.directory.owns(Path(disk.destination_path)):
                raise Fatal(f"{disk.destination_path} was not made by job {self.job.id}: nothing is started on it")
            if disk.named is not None and not Path(disk.named).samefile(disk.destination_path):
                raise Fatal(f"{disk.named} is no link to {disk.destination_path} any more: nothing is started on it")

    @property
    def served_at(self) -> NbdServer:
        """Where the images are served. This and the next raise `Fatal` when it is not known."""
        return self._known(self.job.nbd_server, "NBD server")

    @property
    def attempt(self) -> Switchover:
        """The present attempt at the switchover."""
        return self._known(self.job.switchover, "switchover")

    def _known(self, document: Known | None, what: str) -> Known:
        if document is None:
            raise Fatal(f"job {self.job.id} has no {what} on record")
        return document

    @property
    def source(self) -> Inspection:
        """The guest as it was on its source."""
        return self.plan.source

    @property
    def destination(self) -> DestinationPlan:
        """How the guest is to run there."""
        return self.plan.destination

    def note(self, rates: Rates | None = None, /, **columns: Any) -> None:
        """Write columns of the job's row, in the database while the claim holds, and in `job`."""
        note(self.claim, rates, **columns)
        for name, value in columns.items():
            setattr(self.job, name, value)

    def record(self) -> AbstractContextManager[tuple[Session, Job, StepRow]]:
        """A transaction on the job that commits only while the claim holds."""
        return fenced(self.claim)

    def announce(self, percent: int) -> None:
        """Show in Flower how far the step has come, and what it waits for."""
        if self.announcer is not None:
            self.announcer.tell(self.claim, self.remark, percent)

    def tell(self, action: EventAction, sentence: str) -> None:
        """Add an event to the job, while the claim holds."""
        with self.record() as (session, job, _step):
            record_event(session, job.id, by=self.claim.owner, action=action, sentence=sentence)

    def guard(self) -> None:
        """Called before every command that changes something on this host. From the first on the plan is held here.

        Raises:
            LeaseLost: the lease ran out, or a later claim on this job was seen on this host.
        """
        self.claim.check()
        if not (seen := self.directory.path / "fence").exists():
            processes.make_names_secret(self.directory.path)
        fence(seen, self.claim.token)
        if self._proven is not None and self.held is None:
            held_plan.begin(self.directory.path, self._proven, self.claim.side)

    @property
    def source_alive(self) -> bool:
        """The guest's QEMU on the source is the very process of the preflight. To be called on the source."""
        return self.source_process.alive

    @property
    def source_process(self) -> Process:
        """The guest's QEMU on the source. To be called on the source."""
        return Process(self.source.pid, self.source.started)

    def guest(self) -> AbstractAsyncContextManager[monitor.Monitor]:
        """The monitor of the guest's QEMU on this host: the running one or the incoming one.

        Raises:
            Fatal: the guest's QEMU on the source ended: the guest was powered off, or QEMU crashed.
        """
        if self.claim.side is Side.SOURCE and not self.source_alive:
            raise Fatal(f"{self.job.guest}'s QEMU (pid {self.source.pid}) is gone: powered off or crashed")
        side: Inspection | DestinationPlan = self.source if self.claim.side is Side.SOURCE else self.destination
        return monitor.connect(side.qmp, self.guard)

    def nbd_server(self) -> AbstractAsyncContextManager[monitor.Monitor]:
        """The monitor of the storage daemon on the destination."""
        return monitor.connect(self.directory.nbd_server_qmp, self.guard)


def fence(path: Path, token: int) -> None:
    """Refuse a token older than the newest one seen on this host; works without the database.

    Raises:
        LeaseLost: a later claim has acted on this host.
    """
    descriptor = files.private(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        newest = int(os.read(descriptor, 32) or b"0")
        if token < newest:
            raise LeaseLost(f"token {token} is stale: {newest} was seen on this host")
        if token > newest:
            os.pwrite(descriptor, b"%d" % token, 0)
    finally:
        os.close(descriptor)


class StepHandler(ABC):
    """One move towards the destination. Holds no state."""

    name: ClassVar[str]
    """Stored in the journal and in task names: never rename."""
    side: ClassVar[Side]
    """The host whose queue runs it."""
    attempts: ClassVar[int] = 3
    """How often it is begun, in one direction, before the job is rolled back."""

    @abstractmethod
    async def verify(self, ctx: Context) -> bool:
        """Is the effect in place? Looks, changes nothing."""

    @abstractmethod
    async def do(self, ctx: Context) -> None:
        """Bring the effect about. May be called again after dying half-way."""

    async def abandon(self, ctx: Context) -> bool:
        """Cancellation was asked for: may the step be stopped? Not once the job can only go forward."""
        return self.name not in ONCE_COMMITTED

    async def rollback(self, ctx: Context) -> None:  # noqa: B027 - some steps leave nothing to roll back
        """Take the effect away, however little of it there is."""
