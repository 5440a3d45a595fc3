"""What the tests with real guests have in common: boot one, move it, watch it, check it."""

import json
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import select

from drover.errors import PreconditionFailed
from lab import fleet, guests
from lab.directory import Lab
from lab.guest.spec import DiskSpec, GuestSpec
from models.database import transaction
from models.documents import MigrationOptions
from models.host import Host
from models.job import Event, Job, JobState, Step
from tests import saved_guests
from workers.process import processes
from workers.process.processes import Process
from workflows import guests as guest_records
from workflows.migration import jobs
from workflows.presence import known_host

MIB = 1 << 20
WRITES_PER_S = 20
"""Of a guest for which nothing else is said, on each disk. Each costs a millisecond of a core under emulation."""
_numbers = count(1)


def until(what: str, condition: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.05) -> Any:
    """The first true answer of a condition."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain until {what}"
        time.sleep(every_s)
    return answer


def next_heartbeat(host: str) -> None:
    """Wait until the host's worker, which was just started, has sent a heartbeat."""
    with transaction() as session:
        before = session.get_one(Host, host).heartbeat_at

    def beats() -> bool:
        with transaction() as session:
            return session.get_one(Host, host).heartbeat_at > before

    until(f"the worker of {host} sends a heartbeat", beats)


def is_served(host: str, *, but_for: Collection[str] = ()) -> bool:
    """Whether the host's worker has sent a heartbeat lately, and is none of these incarnations."""
    try:
        return known_host(host).incarnation not in but_for
    except PreconditionFailed:
        return False


def start_workers(lab: Lab, *, but_for: Collection[str] = ()) -> None:
    """Start those that were ended, and wait until each host is served.

    Args:
        lab: whose.
        but_for: incarnations that are known to be dead: a heartbeat of theirs does not count.
    """
    for host in lab.hosts:
        if not processes.find(lab.mark(f"worker-{host.name}")):
            fleet.start_worker(lab, host)
    until("the hosts are back", lambda: all(is_served(host.name, but_for=but_for) for host in lab.hosts))


def stop(process: Process, grace_s: float = 30.0) -> None:
    """End a process as a supervisor would: asked first, killed when it takes too long."""
    process.signal(signal.SIGTERM)
    if not process.wait(grace_s):
        process.kill()


@dataclass
class Moves:
    """The guests of one test and the jobs that move them."""

    lab: Lab
    names: list[str] = field(default_factory=list)

    def boot(self, *disks: DiskSpec, host: str = "host-a", **load: Any) -> str:
        """A guest with these disks (one small qcow2 if none are named); returns its name."""
        name = f"g{next(_numbers)}"
        spec = GuestSpec(
            name=name,
            directory=self.lab.host(host).guests / name,
            disks=disks or (DiskSpec(size_bytes=64 * MIB),),
            **{"window_mib": 4, "write_rate": WRITES_PER_S, "dirty_mib": 8, "dirty_rate": 1} | load,
        )
        self.names.append(name)
        until(f"{host} is served", lambda: is_served(host))
        saved_guests.boot(self.lab, spec, host)
        return name

    def submit(self, guest: str, to: str, **options: Any) -> Job:
        """Have a guest moved; does not wait."""
        return jobs.submit(guest, to, options=MigrationOptions(**options))

    def move(self, guest: str, to: str, **options: Any) -> Job:
        """Move a guest and wait until the job has ended."""
        return self.ended(self.submit(guest, to, **options).id)

    def hurry(self, job_id: int) -> None:
        """What has begun was to take a while: from now on there is no limit of bandwidth."""
        with transaction() as session:
            job = session.get_one(Job, job_id)
            job.options = MigrationOptions(max_downtime_ms=job.options.max_downtime_ms)

    def ended(self, job_id: int, timeout_s: float = 120.0) -> Job:
        """The job once it has ended."""
        try:
            until(f"job {job_id} ends", lambda: self._settled(job_id), timeout_s, every_s=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.events(job_id)}") from error
        return self.job(job_id)

    def _settled(self, job_id: int) -> bool:
        """By its state alone: this is asked for during most of the suite's time."""
        with transaction() as session:
            state = session.scalar(select(Job.state).where(Job.id == job_id))
        assert state is not None, f"there is no job {job_id}"
        return state.settled

    def job(self, job_id: int) -> Job:
        """The job as it is now, with steps and disks."""
        with transaction() as session:
            job = session.get_one(Job, job_id)
            _ = job.steps, job.disks, job.nbd_server, job.file_copy
        return job

    def events(self, job_id: int) -> str:
        """The job's record, for a failing assertion."""
        with transaction() as session:
            events = session.query(Event).where(Event.job_id == job_id).order_by(Event.id).all()
            steps = session.get_one(Job, job_id).steps
        lines = [f"{event.at:%T.%f} {event.by}: {event.action}: {event.sentence}" for event in events]
        lines += [f"{step.started_at} {step.finished_at} {step.name}@{step.host} {step.state}" for step in steps]
        return "\n".join(lines)

    def done(self, job: Job) -> None:
        """Assert that a job succeeded."""
        assert job.state is JobState.DONE, f"{job.state}: {job.error}\n{self.events(job.id)}"

    def intact(self, guest: str, host: str) -> None:
        """Assert that the guest lives on this host, goes on there, and has lost nothing."""
        console = self.lab.host(host).guests / guest / "console.log"
        heard = console.stat().st_size
        until("the guest prints ticks", lambda: console.read_bytes()[heard:].count(b"tick") > 2, 20)
        verdict = guests.check(self.lab, guest)
        assert verdict.report.ok, verdict.report.problems
        assert verdict.host == host

    def step_is(self, job_id: int, name: str, state: str) -> bool:
        """Whether a step of this name is in this state now."""
        with transaction() as session:
            states = session.scalars(select(Step.state).where(Step.job_id == job_id, Step.name == name))
            return state in states.all()

    def processes_of(self, job: Job, host: str) -> list[Process]:
        """What the job has running on a host."""
        return processes.find_below(self.directory(job, host))

    def directory(self, job: Job, host: str) -> Path:
        """The job's directory on a host."""
        return self.lab.host(host).folder / "drover" / "jobs" / str(job.id)

    def journal(self, job: Job, host: str, side: str) -> list[dict[str, Any]]:
        """All lines of the job's switch journals on a host."""
        lines: list[dict[str, Any]] = []
        for path in sorted(self.directory(job, host).glob(f"switch-{side}-*.jsonl")):
            lines += [json.loads(line) for line in path.read_bytes().rpartition(b"\n")[0].splitlines()]
        return lines

    def nothing_left(self, job: Job) -> None:
        """Assert that a job which has ended left no process and no directory behind."""
        for host in (job.source, job.destination):
            left = [process for process in self.processes_of(job, host) if not self._is_guest(job, host)]
            assert not left, f"processes left on {host}: {left}"
            assert not self.directory(job, host).exists(), f"left on {host}: {self.directory(job, host)}"

    def _is_guest(self, job: Job, host: str) -> bool:
        return job.state is JobState.DONE and host == job.destination

    def power_off(self, name: str) -> None:
        """End a guest, by killing its QEMU."""
        for host in self.lab.hosts:
            for process in _qemus_mentioning(f"{host.guests}/{name}/"):
                process.kill()

    def end(self, names: Sequence[str] | None = None) -> None:
        """Power guests of the test off and forget them: all, unless some are named."""
        for name in self.names if names is None else names:
            self.power_off(name)
            with suppress(PreconditionFailed):  # its job waits for an operator
                guest_records.forget(name)


@contextmanager
def resident(lab: Lab, **load: Any) -> Iterator[str]:
    """A guest on host-a for several tests: those that leave it there. A boot takes longer than many a test."""
    made = Moves(lab)
    try:
        yield made.boot(**load)
    finally:
        made.end()


def _qemus_mentioning(text: str) -> list[Process]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            alive = processes.process(int(entry.name))
            if alive is not None and text.encode() in argv and b"qemu-system" in argv:
                found.append(alive)
    return found
