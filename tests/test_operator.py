"""Where a human is needed the job says so, in one sentence with the commands to choose from; and they work."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import fleet
from models.database import transaction
from models.errors import PreconditionFailed
from models.host import Host
from models.job import Job, JobState, Side
from tests.support import MIB, Moves, until
from workers import processes
from workflows import jobs, reconcile

pytestmark = pytest.mark.guests


@pytest.fixture
def workers_come_back(moves: Moves) -> Iterator[None]:
    """The workers that a test ends are started again for the next one."""
    yield
    for host in moves.lab.hosts:
        if not processes.find(moves.lab.mark(f"worker-{host.name}")):
            fleet.start_worker(moves.lab, host)
    until("the hosts are back", lambda: all(_is_alive(host.name) for host in moves.lab.hosts))


def _is_alive(name: str) -> bool:
    from workflows.questions import known_host

    try:
        known_host(name)
    except PreconditionFailed:
        return False
    return True


def _end_worker(moves: Moves, host: str) -> None:
    for process in processes.find(moves.lab.mark(f"worker-{host}")):
        process.kill()


def _silent_since_long(host: str) -> None:
    """As if its worker had been silent for an hour; waiting would prove no more."""
    with transaction() as session:
        row = session.get_one(Host, host)
        row.heartbeat_at = row.heartbeat_at.replace(year=2020)


def _cli(moves: Moves, *words: str) -> str:
    command = [fleet._program("drover"), *words]
    return subprocess.run(
        command, env=os.environ | moves.lab.environment, capture_output=True, text=True, check=True
    ).stdout


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
    until("the source's side is undone", lambda: moves.step_is(job.id, "mirror_disks", "undone"))
    _silent_since_long("host-b")
    asked = moves.ended(job.id)
    assert asked.state is JobState.NEEDS_OPERATOR
    command = f"drover job resolve {job.id} --owner source --fenced host-b"
    assert command in (asked.error or "")
    with pytest.raises(PreconditionFailed, match="cannot be asked"):
        jobs.resolve(job.id, Side.SOURCE, None)
    for process in moves.processes_of(job, "host-b"):
        process.kill()  # the host is off
    _cli(moves, *command.split()[1:])
    assert moves.ended(job.id).state is JobState.UNDONE
    moves.intact(guest, "host-a")


@pytest.mark.usefixtures("workers_come_back")
def test_a_job_that_waits_for_a_silent_host_goes_on_by_retry_once_it_is_back(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = _copying(moves, guest)
    _end_worker(moves, "host-b")
    jobs.cancel(job.id)
    until("the source's side is undone", lambda: moves.step_is(job.id, "mirror_disks", "undone"))
    _silent_since_long("host-b")
    assert moves.ended(job.id).state is JobState.NEEDS_OPERATOR
    fleet.start_worker(moves.lab, moves.lab.host("host-b"))
    until("the host is back", lambda: _is_alive("host-b"))
    _cli(moves, "job", "retry", str(job.id))
    ended = moves.ended(job.id)
    assert ended.state is JobState.UNDONE
    moves.nothing_left(ended)
    moves.intact(guest, "host-a")


@pytest.mark.usefixtures("workers_come_back")
def test_a_source_that_died_after_the_switch_is_fenced_and_the_guest_lives_at_the_destination(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    until("RAM is sent", lambda: any(line["event"] == "migrating" for line in moves.journal(job, "host-a", "source")))
    until(
        "it runs there",
        lambda: any(line["event"] == "resumed" for line in moves.journal(job, "host-b", "destination")),
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
    jobs.resolve(job.id, Side.DESTINATION, "host-a")
    moves.done(moves.ended(job.id, 20))
    moves.intact(guest, "host-b")


def _source_qemus(moves: Moves, guest: str) -> list[processes.Process]:
    return processes.find(moves.lab.mark(f"guest-{guest}"))


def test_reconcile_says_where_the_guest_of_an_unfinished_job_runs(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = _copying(moves, guest)
    [looked] = [look for look in map(reconcile.look, reconcile.unfinished(guest)) if look.job_id == job.id]
    assert looked.seen[Side.DESTINATION]["runstate"] == "inmigrate"
    # while a step holds the monitor of the source's QEMU nobody else can ask it
    assert looked.verdict.owner in {reconcile.Owner.SOURCE, reconcile.Owner.UNKNOWN}
    assert guest in _cli(moves, "reconcile", guest)
    jobs.cancel(job.id)
    moves.ended(job.id)


def test_a_guest_that_powers_off_during_the_copy_ends_the_job_and_nothing_is_left(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = _copying(moves, guest)
    for process in _source_qemus(moves, guest):
        process.kill()
    ended = moves.ended(job.id)
    assert ended.state is JobState.UNDONE
    assert "powered off or crashed" in (ended.error or "")
    moves.nothing_left(ended)
    assert not Path(ended.disks[0].destination_path).exists()
    assert Path(ended.disks[0].source_path).exists()
