"""A job that needs an operator has one sentence with the commands to choose from; and they work."""

import asyncio
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from lab import fleet
from lab.guest.spec import DiskSpec
from models.database import transaction
from models.host import Host
from models.job import Job, JobState, Side
from tests.cli.support import drover
from tests.helpers import MIB, Moves, start_workers, until
from workers.executor import ROLLBACK_ATTEMPTS
from workers.process import processes
from workers.qemu.monitor import connect
from workflows import guests
from workflows.migration import jobs, operator_actions, reconcile

pytestmark = pytest.mark.guests


@pytest.fixture
def workers_come_back(moves: Moves) -> Iterator[None]:
    """The workers that a test ends are started again for the next one."""
    yield
    start_workers(moves.lab)


def _end_worker(moves: Moves, host: str) -> None:
    for process in processes.find(moves.lab.mark(f"worker-{host}")):
        process.kill()


def _silent_since_long(host: str) -> None:
    """As if its worker had been silent for an hour; waiting would prove no more."""
    with transaction() as session:
        row = session.get_one(Host, host)
        row.heartbeat_at = row.heartbeat_at.replace(year=2020)


def _cli(*words: str) -> str:
    done = drover(*words)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def _said(moves: Moves, job: Job, host: str, event: str) -> bool:
    side = "source" if host == job.source else "destination"
    return any(line["event"] == event for line in moves.journal(job, host, side))


def _copying(moves: Moves, guest: str) -> Job:
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=2 * MIB)
    until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))
    return job


@pytest.mark.usefixtures("workers_come_back")
def test_a_destination_that_is_gone_for_good_is_fenced_and_the_guest_stays_at_the_source(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = _copying(moves, guest)
    _end_worker(moves, "host-b")
    jobs.cancel(job.id)
    until("the source's side is rolled back", lambda: moves.step_is(job.id, "mirror_disks", "rolled_back"))
    _silent_since_long("host-b")
    asked = moves.ended(job.id)
    assert asked.state is JobState.NEEDS_OPERATOR
    command = f"drover job resolve {job.id} --owner source --fenced host-b"
    assert command in (asked.error or "")
    with pytest.raises(PreconditionFailed, match="cannot be asked"):
        operator_actions.resolve(job.id, Side.SOURCE, None)
    for process in moves.processes_of(job, "host-b"):
        process.kill()  # the host is off
    _cli(*command.split()[1:])
    assert moves.ended(job.id).state is JobState.ROLLED_BACK
    moves.intact(guest, "host-a")


@pytest.mark.usefixtures("workers_come_back")
def test_a_job_that_waits_for_a_silent_host_goes_on_by_itself_once_it_is_back(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = _copying(moves, guest)
    _end_worker(moves, "host-b")
    jobs.cancel(job.id)
    until("the source's side is rolled back", lambda: moves.step_is(job.id, "mirror_disks", "rolled_back"))
    _silent_since_long("host-b")
    assert moves.ended(job.id).state is JobState.NEEDS_OPERATOR
    fleet.start_worker(moves.lab, moves.lab.host("host-b"))
    until("the job is rolled back", lambda: moves.job(job.id).state is JobState.ROLLED_BACK)
    ended = moves.job(job.id)
    moves.nothing_left(ended)
    moves.intact(guest, "host-a")


@pytest.mark.usefixtures("workers_come_back")
def test_a_source_that_died_after_the_switch_is_fenced_and_the_guest_lives_at_the_destination(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    until("RAM is sent", lambda: _said(moves, job, "host-a", "migrating"))
    until(
        "it runs there",
        lambda: _said(moves, job, "host-b", "resumed"),
        every_s=0.001,
    )
    _end_worker(moves, "host-a")
    if moves.job(job.id).state is JobState.DONE:
        pytest.skip("the source was too quick")
    until("nobody holds the claim", lambda: not any(step.state == "running" for step in moves.job(job.id).steps))
    _silent_since_long("host-a")
    asked = moves.ended(job.id)
    assert asked.state is JobState.NEEDS_OPERATOR
    assert f"drover job resolve {job.id} --owner destination --fenced host-a" in (asked.error or "")
    for process in _source_qemus(moves, guest):
        process.kill()  # the host is off
    operator_actions.resolve(job.id, Side.DESTINATION, "host-a")
    moves.done(moves.ended(job.id, 20))
    moves.intact(guest, "host-b")


@pytest.mark.usefixtures("workers_come_back")
def test_a_destination_that_died_right_after_the_switch_is_fenced_and_the_source_goes_on_from_there(
    moves: Moves,
) -> None:
    guest = moves.boot()
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    until("RAM is sent", lambda: _said(moves, job, "host-a", "migrating"))
    _end_worker(moves, "host-b")
    until("the source handed it over", lambda: moves.step_is(job.id, "cutover", "done"))
    for process in moves.processes_of(job, "host-b"):
        process.kill()  # the host is off
    _silent_since_long("host-b")
    asked = moves.ended(job.id)
    assert asked.state is JobState.NEEDS_OPERATOR
    assert "what it did on host-b since is lost then" in (asked.error or "")
    command = f"drover job resolve {job.id} --owner source --fenced host-b"
    assert (asked.error or "").count(f"`{command}`") == 1
    _cli(*command.split()[1:])
    assert moves.ended(job.id).state is JobState.ROLLED_BACK
    moves.intact(guest, "host-a")


def _source_qemus(moves: Moves, guest: str) -> list[processes.Process]:
    return processes.find(moves.lab.mark(f"guest-{guest}"))


def test_reconcile_says_where_the_guest_of_an_unfinished_job_runs(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = _copying(moves, guest)
    [looked] = [look for look in map(reconcile.look, reconcile.unfinished_jobs(guest)) if look.job_id == job.id]
    there = looked.seen[Side.DESTINATION]
    assert there is not None
    assert there.runstate == "inmigrate"
    # while a step holds the monitor of the source's QEMU nobody else can ask it
    assert looked.verdict.owner in {reconcile.Owner.SOURCE, reconcile.Owner.UNKNOWN}
    assert guest in _cli("reconcile", guest)
    jobs.cancel(job.id)
    moves.ended(job.id)


def test_a_guest_that_powers_off_during_the_copy_ends_the_job_and_nothing_is_left(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = _copying(moves, guest)
    for process in _source_qemus(moves, guest):
        process.kill()
    ended = moves.ended(job.id)
    assert ended.state is JobState.ROLLED_BACK
    assert "powered off or crashed" in (ended.error or "")
    moves.nothing_left(ended)
    assert not Path(ended.disks[0].destination_path).exists()
    assert Path(ended.disks[0].source_path).exists()


def test_a_guest_that_somebody_let_run_at_the_source_after_its_move_is_reported_and_reconciled(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    until("RAM is sent", lambda: _said(moves, job, "host-a", "migrating"))
    [worker] = processes.find(moves.lab.mark("worker-host-a"))
    worker.signal(signal.SIGSTOP)
    try:
        until("it was let go", lambda: _said(moves, job, "host-a", "resumed"))
        _order(moves, guest, "cont")
    finally:
        worker.signal(signal.SIGCONT)
    asked = moves.ended(job.id)
    assert asked.state is JobState.NEEDS_OPERATOR
    assert "runs on host-a although it was handed over to host-b" in (asked.error or "")
    assert "both" in _cli("reconcile", guest)
    with pytest.raises(PreconditionFailed, match="stop that QEMU first"):
        operator_actions.resolve(job.id, Side.DESTINATION, None)
    _order(moves, guest, "stop")
    assert "it goes on: the destination owns the guest" in _cli("reconcile", guest)
    moves.done(moves.ended(job.id))
    assert guests.known_guest(guest).host == "host-b"


def _order(moves: Moves, guest: str, command: str) -> None:
    """What an operator does by hand, on the guest's second monitor at the source."""

    async def execute() -> None:
        async with connect(moves.lab.host("host-a").guests / guest / "watch.sock") as monitor:
            await monitor.execute(command)

    asyncio.run(execute())


def test_a_guest_whose_qemu_died_right_after_the_switch_is_started_cold_by_hand_and_its_job_ended(moves: Moves) -> None:
    guest = moves.boot(DiskSpec(size_bytes=64 * MIB, format="raw"))
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    until("RAM is sent", lambda: _said(moves, job, "host-a", "migrating"))
    [worker] = processes.find(moves.lab.mark("worker-host-b"))
    worker.signal(signal.SIGSTOP)
    try:
        until("it runs", lambda: _said(moves, job, "host-b", "resumed"))
        for process in processes.find(f"{moves.directory(job, 'host-b')}/incoming"):
            process.kill()
    finally:
        worker.signal(signal.SIGCONT)
    asked = moves.ended(job.id)
    assert asked.state is JobState.NEEDS_OPERATOR
    assert "start it cold from the images on host-b" in (asked.error or "")
    command = f"drover job resolve {job.id} --owner destination"
    assert f"`{command}`" in (asked.error or "")
    _cli(*command.split()[1:])
    ended = moves.ended(job.id)
    moves.done(ended)
    moves.nothing_left(ended)
    assert guests.known_guest(guest).host == "host-b"
    console = moves.lab.host("host-b").guests / guest / "console.log"
    heard = console.stat().st_size
    _cli("guest", "start", guest)
    until("it boots there", lambda: b"tick" in console.read_bytes()[heard:], 120)


def test_a_source_that_cannot_be_cleaned_up_asks_for_an_operator_and_goes_on_by_retry(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    in_the_way = Path(f"{moves.job(job.id).disks[0].source_path}.drover-{job.id}/full")
    in_the_way.mkdir(parents=True)  # the image is to be set aside under that name
    asked = moves.ended(job.id)
    assert asked.state is JobState.NEEDS_OPERATOR
    assert "cleanup on host-a failed" in (asked.error or "")
    shutil.rmtree(in_the_way.parent)
    _follow_advice(moves, asked, "retry")
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")


@pytest.mark.thorough
def test_an_rollback_that_fails_for_good_asks_for_an_operator_and_goes_on_by_retry(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = _copying(moves, guest)
    manifest = moves.directory(job, "host-b") / "created.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:10])  # as a disk that was full leaves it
    jobs.cancel(job.id)
    until("rolling back failed once", lambda: moves.job(job.id).steps[0].error)
    with transaction() as session:
        session.get_one(Job, job.id).steps[0].attempts = ROLLBACK_ATTEMPTS - 1  # spares two minutes of further tries
    asked = moves.ended(job.id)
    assert asked.state is JobState.NEEDS_OPERATOR
    assert "prepare_dest_image on host-b failed" in (asked.error or "")
    manifest.write_bytes(whole)
    _follow_advice(moves, asked, "retry")
    ended = moves.ended(job.id)
    assert ended.state is JobState.ROLLED_BACK
    moves.nothing_left(ended)
    moves.intact(guest, "host-a")


def _follow_advice(moves: Moves, asked: Job, word: str) -> None:
    command = f"drover job {word} {asked.id}"
    assert (asked.error or "").count(f"`{command}`") == 1, asked.error
    _cli(*command.split()[1:])
