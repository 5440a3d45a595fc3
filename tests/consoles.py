"""A console in this process, a browser that looks at it, and a fleet that has something to show."""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Browser, sync_playwright

from drover.console import live
from drover.console.app import make
from drover.console.serving import LOCAL_NAMES
from models.base import now
from models.database import transaction
from models.documents import Downtime, Health, Hook, RamProgress, Window
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState, SubmittedPlan
from models.guest import Guest
from models.job import DOWNTIME_PHASES, Attempt, Job, JobState, Side, StepState, record_event
from models.roll import HookRun, Roll, RollHost, RollHostState, RollState
from models.sample import Sample
from models.transitions import Direction
from tests import factories
from tests.factories import GB, MB
from tests.helpers import until
from workflows.drain import plans
from workflows.drain.plan_file import Move, PlanFile
from workflows.migration.links import StepName

BROWSER = shutil.which("chromium")


@contextmanager
def serving(**options: Any) -> Iterator[str]:
    """The address of a console that answers from this process."""
    live.VERSIONS.known.clear()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        made = make(*LOCAL_NAMES, **options)
        server = uvicorn.Server(uvicorn.Config(made, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            until("the console answers", lambda: server.started)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the console did not stop"


@contextmanager
def browsing() -> Iterator[Browser]:
    """Debian's browser, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def tried(description: str, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The API is asked by schemathesis for all that its description at this URL permits, and more."""
    program, told = str(Path(sys.executable).with_name("st")), str(Path(__file__).with_name("schemathesis.toml"))
    command = [program, "--config-file", told, "run", description, "--no-color"]
    command += ["--max-examples=10", "--request-timeout=30", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Numbers of what `fleet` made."""

    drain: int
    moved: int
    """A job of the drain that is done, and one that copies."""
    copying: int
    held: int
    stuck: int
    roll: int
    """It pauses: hv2 did not come back."""
    plan: int
    """It needs an approval."""
    unwell: int
    """A job that is done, after which its guest was not well."""


def fleet() -> Shown:
    """Four hosts and twenty guests: a drain under way, a job that is held, one that needs an operator, a silent host,
    a roll that pauses, a plan to be approved, a guest that was not well after its move, and a week of moves that have
    ended.
    """
    hour = timedelta(hours=1)  # a test may take longer than a host may be silent
    with transaction() as session:
        at = now(session)
    for name, heard in (("hv1", hour), ("hv2", hour), ("hv3", hour), ("hv4", -2 * hour)):
        factories.host(name, guest_memory_bytes=32 * GB, guest_disk_bytes=400 * GB, heartbeat_at=at + heard)
    for number in range(1, 21):
        factories.guest(f"web{number:02}", f"hv{number % 4 + 1}", memory_bytes=(number % 5 + 1) * GB)
    _history(at)
    drain, done, copies, _ = _drain(at)
    return Shown(
        drain=drain,
        moved=done,
        copying=copies,
        held=_held(at),
        stuck=_stuck(at),
        roll=_roll(at),
        plan=_plan(at),
        unwell=_unwell(at),
    )


def moved(guest: str, to: str, begun: datetime, *, took_s: float, downtime_ms: float) -> int:
    """A job that is done."""
    with transaction() as session:
        job = factories.new_job(session, guest, to, state=JobState.DONE)
        job.created_at = begun - timedelta(seconds=2)
        job.started_at, job.finished_at = begun, begun + timedelta(seconds=took_s)
        stopped = begun + timedelta(seconds=0.9 * took_s)
        share = downtime_ms / len(DOWNTIME_PHASES)
        job.downtime = Downtime(
            ms=downtime_ms, phases=dict.fromkeys(DOWNTIME_PHASES, share), stopped_at=stopped.timestamp()
        )
        job.committed_at = stopped
        job.ram = RamProgress(status="completed", transferred=GB, total=GB, bytes_per_s=10**8, passes=2)
        _all_steps(job, begun, took_s)
        for disk in job.disks:
            sync = next(step for step in job.steps if step.name == StepName.AWAIT_SYNC)
            assert sync.started_at is not None
            disk.bytes_copied = disk.bytes_total
            disk.ready_at = sync.started_at + timedelta(seconds=took_s / len(job.steps) / 2)
        session.flush()
        session.add_all([*_samples(job.id, begun, took_s), *_attempts(job)])
        record_event(session, job.id, by="controller", action=JobState.RUNNING, sentence="the controller admits it")
        record_event(session, job.id, by=to, action=JobState.DONE, sentence=f"{guest} runs on {to}")
        return job.id


def _samples(job_id: int, begun: datetime, took_s: float) -> Iterator[Sample]:
    """Two thirds of it copies the disks, a fifth the RAM."""
    for number in range(40):
        at, wave = begun + timedelta(seconds=took_s * (0.1 + number / 60)), number % 7
        yield Sample(job_id=job_id, of_ram=False, at=at, sent_per_s=(110 + wave) * MB, changed_per_s=wave * MB)
    for number in range(10):
        at = begun + timedelta(seconds=took_s * (0.8 + number / 60))
        yield Sample(job_id=job_id, of_ram=True, at=at, sent_per_s=100 * MB, changed_per_s=(4 + number % 3) * MB)


def _all_steps(job: Job, begun: datetime, took_s: float) -> None:
    for number, step in enumerate(job.steps):
        step.state, step.attempts = StepState.DONE, 1
        step.started_at = begun + timedelta(seconds=took_s * number / len(job.steps))
        step.finished_at = step.started_at + timedelta(seconds=took_s / len(job.steps))


def _attempts(job: Job) -> Iterator[Attempt]:
    """One at each step that was begun."""
    for step in job.steps:
        if step.started_at is not None:
            yield Attempt(
                job_id=job.id,
                token=step.seq,
                seq=step.seq,
                direction=Direction.DO,
                owner=step.host,
                started_at=step.started_at,
            )


def copying(guest: str, to: str, begun: datetime, share: float, **columns: object) -> int:
    """A job whose disk is copied, to this share; all of it is in sync."""
    with transaction() as session:
        job = factories.new_job(session, guest, to, state=JobState.RUNNING, **columns)
        job.created_at = job.started_at = begun
        at_work = next(number for number, step in enumerate(job.steps) if step.name == StepName.AWAIT_SYNC)
        for step in job.steps[:at_work]:
            step.state, step.attempts = StepState.DONE, 1
            step.started_at, step.finished_at = begun, begun + timedelta(seconds=4)
        job.steps[at_work - 1].started_at = begun + timedelta(seconds=4)
        job.steps[at_work].state, job.steps[at_work].attempts = StepState.RUNNING, 1
        job.steps[at_work].started_at = begun + timedelta(seconds=5)
        for disk in job.disks:
            disk.bytes_copied = int(share * disk.bytes_total)
            disk.ready_at = begun + timedelta(minutes=4) if share >= 1 else None
        session.flush()
        session.add_all(_attempts(job))
        record_event(session, job.id, by="controller", action=JobState.RUNNING, sentence="the controller admits it")
        return job.id


def _roll(at: datetime) -> int:
    begun, why = at - timedelta(minutes=90), "it was not healthy within 30 min: hv2 has no QEMU: install it"
    with transaction() as session:
        roll = Roll(
            max_unavailable=1,
            hook=Hook(argv=("upgrade-and-reboot", "--kernel", "6.12")),
            back_within=timedelta(minutes=30),
            created_at=begun,
        )
        states = {"hv3": RollHostState.DONE, "hv2": RollHostState.COMING_BACK, "hv4": RollHostState.WAITING}
        roll.hosts = [
            RollHost(host=host, position=turn, state=state, since=begun + timedelta(minutes=20 * turn))
            for turn, (host, state) in enumerate(states.items(), start=1)
        ]
        session.add(roll)
        session.flush()
        run = HookRun(roll_id=roll.id, host="hv2", asked_at=begun + timedelta(minutes=30))
        run.begun_at, run.ended_at = run.asked_at, begun + timedelta(minutes=40)
        run.exit_code, run.output = 0, "<b>upgrades\nkernel 6.12 is installed\n"
        session.add(run)
        session.flush()
        roll.hosts[1].hook_run_id, roll.hosts[1].error = run.id, why
        roll.error = f"hv2: {why}"
        roll.move(session, RollState.PAUSED)
        return roll.id


def _plan(at: datetime) -> int:
    factories.limits(plan_approvals=1)
    number = plans.submit(planned("web10", "hv3", "hv2"), "ada")
    with transaction() as session:
        session.get_one(SubmittedPlan, number).submitted_at = at - timedelta(minutes=50)
    return number


def planned(guest: str, source: str, to: str) -> PlanFile:
    """The plan of a drain of one guest."""
    move = Move(
        guest=guest, source=source, to=to, estimate_s=240.0, why="it has the most memory left",
        cpus=1, memory_bytes=GB, disk_bytes=10 * GB,
    )  # fmt: skip
    return PlanFile(
        kind="drain", made_at="2026-11-27T20:00:00+00:00", made_by="ada", total_s=240.0, request={"host": source},
        moves=(move,),
    )  # fmt: skip


def _unwell(at: datetime) -> int:
    job_id = moved("web09", "hv1", at - timedelta(minutes=30), took_s=210, downtime_ms=51)
    with transaction() as session:
        job = session.get_one(Job, job_id)
        job.health, job.way_back_needed = Health(finished=True, problems=("its agent does not answer any more",)), True
        session.get_one(Guest, "web09").host = "hv1"
    return job_id


def _history(at: datetime) -> None:
    for day in range(7):
        for number in range(3):
            begun = at - timedelta(days=day, hours=2 + number)
            moved(f"web{number + 5:02}", "hv3", begun, took_s=200 + 40 * number, downtime_ms=40 + 9 * day + 30 * number)


def _drain(at: datetime) -> list[int]:
    begun = at - timedelta(minutes=12)
    with transaction() as session:
        names = [guest.name for guest in session.query(Guest).where(Guest.host == "hv1").order_by(Guest.name)]
        drain = Drain(kind=DrainKind.DRAIN, host="hv1", state=DrainState.RUNNING, started_at=begun, created_at=begun)
        drain.window = Window(
            start=f"{begun - timedelta(hours=1):%H:%M}", end=f"{at + timedelta(hours=1):%H:%M}", timezone="UTC"
        )
        session.add(drain)
        session.flush()
        number = drain.id
    jobs = [
        moved(names[0], "hv2", begun + timedelta(seconds=5), took_s=260, downtime_ms=48),
        copying(names[1], "hv3", begun + timedelta(minutes=5), 0.62),
        copying(names[2], "hv2", begun + timedelta(minutes=7), 0.2),
    ]
    waits = "2 moves leave hv1 already, 2 may at a time: `drover fleet set max-outgoing=3` lets another begin"
    with transaction() as session:
        for position, name in enumerate(names):
            state = (
                [GuestState.MOVED, GuestState.MOVING, GuestState.MOVING][position]
                if position < 3
                else GuestState.WAITING
            )
            job_id = jobs[position] if position < 3 else None
            reason = waits if state is GuestState.WAITING else None
            session.add(
                DrainGuest(
                    drain_id=number,
                    guest=name,
                    position=position,
                    state=state,
                    source="hv1",
                    job_id=job_id,
                    destination=f"hv{position % 2 + 2}",
                    estimate_s=240.0 + 30 * position,
                    reason=reason,
                )
            )
            if job_id is not None:
                session.get_one(Job, job_id).drain_id = number
        session.get_one(Guest, names[0]).host = "hv2"
    return [number, *jobs]


def _held(at: datetime) -> int:
    begun = at - timedelta(hours=3)
    return copying("web06", "hv2", begun, 1.0, hold=True)


def _stuck(at: datetime) -> int:
    job_id = copying("web11", "hv3", at - timedelta(hours=5), 1.0)
    with transaction() as session:
        job = session.get_one(Job, job_id)
        job.state = JobState.NEEDS_OPERATOR
        job.error = "hv4 does not answer: nobody can tell whether web11 runs there. It is left as it is"
        cutover = next(step for step in job.steps if (step.name, step.side) == (StepName.CUTOVER, Side.SOURCE))
        cutover.state, cutover.error = StepState.FAILED, "no answer from hv4 for 60 s"
        record_event(session, job_id, by="controller", action=JobState.NEEDS_OPERATOR, sentence=job.error)
    return job_id
