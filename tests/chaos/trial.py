"""One move with one fault, and everything that must hold afterwards."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from lab import fleet, guests
from lab.guest.continuity import NO_TICK, NO_WRITE
from lab.guest.spec import DiskSpec, GuestSpec
from lab.guest.verify import ImageRef, verify
from models.database import transaction
from models.documents import MigrationOptions
from models.guest import Guest
from models.job import Disk, Event, Job, JobState, Step, StepState
from tests import saved_guests
from tests.chaos import launcher
from tests.chaos.faults import FOR_GOOD, Fault, RunningMove, incoming_qemu, source_qemu
from tests.chaos.points import Durations, Middle, Missed, Point
from tests.chaos.stage import DESTINATION, SOURCE, Stage
from tests.chaos.witness import Witness
from tests.helpers import MIB, until
from workers.process import processes
from workflows import guests as guest_records
from workflows import orphans
from workflows.migration import jobs
from workflows.submit_options import SubmitOptions

ENDS_WITHIN_S = 420.0
LONGEST_WITH_RAM_S = 15.0
"""A QEMU that cannot move RAM live without KVM sends all of it, faults included, in the pause."""
HEARD_WITHIN_S = 20.0
ADVICE = re.compile(r"`drover (job (?:retry|resolve) [^`]*)`")
FILES_OF_A_FORMER_HOST = {"console.log"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The guest that is moved, and how fast."""

    disks: tuple[DiskSpec, ...] = (DiskSpec(size_bytes=64 * MIB),)
    """All raw where the guest's own QEMU may be killed: of a qcow2 image QEMU keeps tables in its memory until the
    guest flushes, so its death loses acknowledged writes that were never flushed, with or without a move."""
    fill_mib: int = 24
    dirty_rate: int = 2
    bandwidth_bytes_per_s: int = 48 * MIB

    def all_raw(self) -> "Recipe":
        return replace(self, disks=tuple(replace(disk, format="raw") for disk in self.disks))


@dataclass
class Outcome:
    """What became of the job and the guest."""

    point: str
    fault: str
    state: str = ""
    """The job's state when it first ended; `absent` if the fault had no target, `missed` if it came too late."""
    lost: bool = False
    """The guest's own QEMU was killed, and it runs nowhere."""
    took_s: float = 0.0
    pause_ms: float = 0.0
    """The longest time that the guest ran nowhere, by the events of its QEMUs."""
    said: str = ""
    """The job's error when it first ended."""
    problems: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def run(stage: Stage, point: Point, fault: Fault, durations: Durations, recipe: Recipe | None = None) -> Outcome:
    """Move a new guest, inject the fault at the point, repair, and check. Never raises: problems are recorded."""
    outcome = Outcome(point.name, fault.name)
    begun = time.monotonic()
    recipe = recipe or Recipe()
    trial = _Trial(stage, outcome, recipe.all_raw() if fault.may_lose_guest else recipe)
    try:
        trial.play(point, fault, durations)
    except Missed:
        outcome.state = "missed"
    except Exception as error:
        outcome.problems.append(f"{type(error).__name__}: {error}\n{trial.events()}")
    finally:
        trial.clear_away()
    outcome.took_s = round(time.monotonic() - begun, 1)
    return outcome


def run_in_time(stage: Stage, point: Point, fault: Fault, durations: Durations) -> Outcome:
    """`run`, earlier in the step when it had ended before its middle."""
    outcome = run(stage, point, fault, durations)
    for share in (0.25, 0.0):
        if outcome.state != "missed" or not isinstance(point, Middle):
            break
        outcome = run(stage, replace(point, share=share), fault, durations)
    return outcome


def measure(stage: Stage) -> Durations:
    """What each link takes when nothing goes wrong."""
    trial = _Trial(stage, Outcome("", ""), Recipe())
    try:
        trial.boot()
        job = trial.submit(verify=True)
        trial.wait_for_end()
    finally:
        trial.clear_away()
    with transaction() as session:
        job = session.get_one(Job, job.id)
        assert job.state is JobState.DONE, trial.events()
        return {step.seq: _took_s(step) for step in job.steps}


def _took_s(step: Step) -> float:
    assert step.started_at is not None
    assert step.finished_at is not None
    return (step.finished_at - step.started_at).total_seconds()


class _Trial:
    """One guest and its job on a stage."""

    def __init__(self, stage: Stage, outcome: Outcome, recipe: Recipe) -> None:
        self.stage, self.outcome, self.recipe = stage, outcome, recipe
        self.guest = f"t{time.time_ns():x}"
        self.job_id = 0
        self.running_move = RunningMove(stage, self.guest, job_id=0)
        self.came_by: int | None = None

    def folder(self, host: str) -> Path:
        return self.stage.lab.host(host).guests / self.guest

    def boot(self, host: str = SOURCE, *, launched: bool = False) -> None:
        spec = GuestSpec(
            name=self.guest,
            directory=self.folder(host),
            disks=self.recipe.disks,
            window_mib=4,
            write_rate=40,
            dirty_mib=8,
            dirty_rate=self.recipe.dirty_rate,
            fill_mib=self.recipe.fill_mib,
        )
        by = launcher.words(self.stage.lab, spec) if launched else ()
        saved_guests.boot(self.stage.lab, spec, host, by=by)

    def come_from_destination(self) -> None:
        """The guest has left its images there."""
        self.boot(DESTINATION)
        self.job_id = self.came_by = jobs.submit(self.guest, SOURCE).id
        assert self.wait_for_end().state is JobState.DONE, self.events()
        assert not guests.check(self.stage.lab, self.guest).report.problems

    def have_a_copy_at_destination(self) -> None:
        """A move there was rolled back once both sides were equal."""
        self.boot()
        self.job_id = jobs.submit(self.guest, DESTINATION, terms=SubmitOptions(hold=True)).id
        until("both sides are equal", lambda: all(disk.ready_at for disk in self._job().disks))
        jobs.cancel(self.job_id)
        assert self.wait_for_end().state is JobState.ROLLED_BACK, self.events()

    def submit(self, *, verify: bool) -> Job:
        options = MigrationOptions(bandwidth_bytes_per_s=self.recipe.bandwidth_bytes_per_s, verify=verify)
        job = jobs.submit(self.guest, DESTINATION, options=options, terms=SubmitOptions(webhook=self.stage.webhook))
        self.job_id = job.id
        return job

    def play(self, point: Point, fault: Fault, durations: Durations) -> None:
        if point.goes_back:
            self.come_from_destination()
        elif point.goes_again:
            self.have_a_copy_at_destination()
        else:
            self.boot(launched=point.launched)
        sockets = {host: self.folder(host) / "watch.sock" for host in (SOURCE, DESTINATION)}
        with Witness(sockets) as witness:
            struck = self.move(point, fault, durations)
            job = self.wait_for_end()
            self.make_whole()
            self.outcome.state = job.state.value if struck else "absent"
            self.outcome.said = job.error or ""
            if job.state is JobState.NEEDS_OPERATOR:
                job = self.ask_operator(job)
            self.check(job, fault, witness)
            if point.launched:
                self._launcher_is_as_told(self._home(job))

    def move(self, point: Point, fault: Fault, durations: Durations) -> bool:
        with point.armed(self.stage, durations) as meet:
            self.running_move = RunningMove(
                self.stage, self.guest, self.submit(verify=point.proves).id, point.side, came_by=self.came_by
            )
            struck = meet(self.running_move, lambda: fault.strike(self.running_move))
        if fault.lasts_s != FOR_GOOD:
            time.sleep(fault.lasts_s)  # so long the fault is to last: there is no event to await
            fault.heal(self.running_move)
        return struck

    def wait_for_end(self) -> Job:
        until(f"job {self.job_id} ends", self._ended, ENDS_WITHIN_S, every_s=0.25)
        return self._job()

    def _job(self) -> Job:
        with transaction() as session:
            job = session.get_one(Job, self.job_id)
            _ = job.steps, job.disks
        return job

    def _ended(self) -> bool:
        self.stage.supervise()
        try:
            return self._job().state.settled
        except SQLAlchemyError:  # Postgres is being restarted
            return False

    def ask_operator(self, job: Job) -> Job:
        """An operator is needed: the text must name what to do, and doing it must help."""
        commands = ADVICE.findall(job.error or "")
        if not commands:
            self.problem(f"the text does not say what to do: {job.error}")
            return job
        self._drover(*commands[0].split())
        return self.wait_for_end()

    def _drover(self, *words: str) -> None:
        command = [fleet._program("drover"), *words]
        done = subprocess.run(command, env=os.environ | self.stage.lab.environment, capture_output=True, text=True)
        gone_on = self._job().state in {JobState.DONE, JobState.ROLLED_BACK}  # by itself, as the text says it may
        if done.returncode and not gone_on:
            self.problem(f"`drover {' '.join(words)}` was advised and failed: {done.stderr.strip()}")

    def problem(self, text: str) -> None:
        self.outcome.problems.append(text)

    def check(self, job: Job, fault: Fault, witness: Witness) -> None:
        home = self._home(job)
        alive = self._qemu_alive(home)
        self.outcome.lost = not alive
        if alive:
            self._goes_on(home, witness)
        elif not fault.may_lose_guest:
            self.problem(f"the guest runs nowhere: {job.error}")
        self.outcome.problems += witness.overlaps()
        self.outcome.pause_ms = round(1000 * witness.longest_pause_s(), 1)
        assert job.plan is not None
        longest = LONGEST_WITH_RAM_S if job.plan.destination.ram == "paused" else fault.longest_pause_s
        longest += fault.lasts_s if self.running_move.held_up else 0
        if witness.longest_pause_s() > longest and not fault.may_pause_guest:
            self.problem(f"the guest stood still for {self.outcome.pause_ms:g} ms")
        self._nothing_lost(home, alive)
        self._record_is_true(job, home)
        if gone := self.stage.ended_by_themselves():
            self.problem(f"workers or controllers ended by themselves: {gone}")
        if job.state is not JobState.NEEDS_OPERATOR:
            self._nothing_left(job, home)

    def _launcher_is_as_told(self, home: str) -> None:
        """It starts nothing where the guest does not live, and may again where it stays."""
        still = launcher.kept_still(self.stage.lab, self.guest).exists()
        if still != (home == DESTINATION):
            self.problem(f"the guest lives on {home}, and its launcher is {'' if still else 'not '}kept still")
        time.sleep(launcher.PERIODS_S)  # so that nothing happens there is no event to await
        if home == DESTINATION and (second := source_qemu(self.running_move)):
            self.problem(f"its launcher has started a second guest: {second}")

    def _home(self, job: Job) -> str:
        """Where the job's record says that the guest, or what is left of it, is."""
        return DESTINATION if job.state is JobState.DONE else SOURCE

    def _qemu_alive(self, home: str) -> bool:
        find = incoming_qemu if home == DESTINATION else source_qemu
        return bool(find(self.running_move))

    def _goes_on(self, home: str, witness: Witness) -> None:
        until(f"the guest runs on {home}", lambda: witness.running_on() == home, HEARD_WITHIN_S)
        console = self.folder(home) / "console.log"
        heard = console.stat().st_size
        until("the guest prints ticks", lambda: console.read_bytes()[heard:].count(b"tick") > 2, HEARD_WITHIN_S)

    def _nothing_lost(self, home: str, alive: bool) -> None:
        if alive:
            report = guests.check(self.stage.lab, self.guest).report
        else:
            disks = enumerate(self.recipe.disks)
            names = GuestSpec(name="", directory=self.folder(home), disks=self.recipe.disks).disk_names
            images = [
                ImageRef(self.folder(home) / f"disk{index}.{disk.format}", disk.format, names[index])
                for index, disk in disks
            ]
            consoles = [self.folder(host) / "console.log" for host in (SOURCE, DESTINATION)]
            before = sorted((self.stage.lab.path / "consoles" / self.guest).glob("*"))  # of a former move
            heard = [console for console in consoles if console.exists() and console.stat().st_size]
            report = verify(images, [*before, *heard])
        # one whose own QEMU was killed may have died there before its first tick or write
        died_early = () if alive else (NO_WRITE, NO_TICK)
        self.outcome.problems += [
            problem for problem in report.problems if not any(silence in problem for silence in died_early)
        ]

    def _record_is_true(self, job: Job, home: str) -> None:
        with transaction() as session:
            recorded = session.get_one(Guest, self.guest).host
            of_its_own = (Event.job_id == job.id) & (Event.action != "outage")  # one may be told of after the end
            last = session.query(Event).where(of_its_own).order_by(Event.id.desc()).first()
        if recorded != home and job.state is not JobState.NEEDS_OPERATOR:
            self.problem(f"the record says that the guest is on {recorded}, it is on {home}")
        states = {step.state for step in job.steps}
        legal = {
            JobState.DONE: {StepState.DONE},
            JobState.ROLLED_BACK: {StepState.ROLLED_BACK, StepState.PENDING},
        }.get(job.state, states)
        if not states <= legal:
            self.problem(f"the job is {job.state}, its steps are {sorted(states - legal)}")
        if last is None or last.action != job.state:
            self.problem(f"the last event is {last and last.action}, the job is {job.state}")

    def _nothing_left(self, job: Job, home: str) -> None:
        for host in (SOURCE, DESTINATION):
            swept = orphans.sweep(host, dry_run=True, unknown_jobs=True)
            if swept.finds or not swept.answered:
                self.problem(f"gc on {host}: {[find.what for find in swept.finds]} {swept.notes}")
            if self.running_move.directory(host).exists():
                self.problem(f"left on {host}: {self.running_move.directory(host)}")
            guest_itself = job.state is JobState.DONE and host == DESTINATION
            if not guest_itself and (left := processes.find_below(self.running_move.directory(host))):
                self.problem(f"left running on {host}: {left}")
        former = SOURCE if home == DESTINATION else DESTINATION
        with transaction() as session:
            of_all_its_moves = select(Disk.retired_path).join(Job).where(Job.guest == self.guest)
            retired = {Path(path).name for path in session.scalars(of_all_its_moves) if path}
        files = {path.name for path in self.folder(former).glob("*")} - FILES_OF_A_FORMER_HOST - retired
        booted_on = SOURCE if self.came_by is None else DESTINATION
        if files - ({"watch.sock"} if former == booted_on else set()):
            self.problem(f"files left on {former}: {sorted(files)}")

    def events(self) -> str:
        with suppress(SQLAlchemyError), transaction() as session:
            events = session.query(Event).where(Event.job_id == self.job_id).order_by(Event.id).all()
            return "\n".join(f"{event.at:%T.%f} {event.by}: {event.action}: {event.sentence}" for event in events)
        return "its events cannot be read"

    def make_whole(self) -> None:
        """Nothing is frozen, cut or missing any more."""
        for frozen in self.running_move.frozen:
            frozen.signal(signal.SIGCONT)
        self.stage.mend_link()
        self.stage.supervise()

    def clear_away(self) -> None:
        """The guest is powered off, the stage is whole again, and a job that never ended is ended."""
        self.make_whole()
        launcher.kept_still(self.stage.lab, self.guest).touch()
        for process in _qemus_of(f"/{self.guest}/"):
            process.kill()
        with suppress(Exception):
            if self.job_id and not self._job().state.settled:
                jobs.cancel(self.job_id)
        with suppress(Exception):
            guest_records.forget(self.guest)


def _qemus_of(text: str) -> list[processes.Process]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (alive := processes.process(int(entry.name))) is not None:
            with suppress(OSError):
                argv = (entry / "cmdline").read_bytes()
                if text.encode() in argv and b"qemu-system" in argv:
                    found.append(alive)
    return found
