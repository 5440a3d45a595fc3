"""When a step fails for good, or somebody cancels, the guest runs on at the source as if nothing had been tried."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import fleet
from lab.directory import Lab
from models.job import JobState
from tests import helpers
from tests.helpers import MIB, Moves, until
from workers.process import processes
from workflows.migration import jobs

pytestmark = pytest.mark.guests

SLOW = {"bandwidth_bytes_per_s": 4 * MIB}


@pytest.fixture(scope="module")
def resident(lab: Lab) -> Iterator[str]:
    """A guest for the tests that leave it at host-a."""
    with helpers.resident(lab, fill_mib=32) as name:
        yield name


def _nothing_at_the_destination(moves: Moves, guest: str) -> None:
    folder = moves.lab.host("host-b").guests / guest
    assert not [path for path in folder.glob("*") if path.name != "console.log"]


def test_a_qemu_that_cannot_start_at_the_destination_leaves_the_guest_where_it_is(moves: Moves, resident: str) -> None:
    guest = resident
    console = moves.lab.host("host-b").guests / guest / "console.log"
    console.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:  # a dead socket is in nobody's way, and QEMU cannot open it as a file
        dead.bind(str(console))
    job = moves.move(guest, "host-b")
    assert job.state is JobState.ROLLED_BACK
    assert "QEMU does not start" in (job.error or "")
    console.unlink()
    moves.nothing_left(job)
    _nothing_at_the_destination(moves, guest)
    moves.intact(guest, "host-a")


def test_a_job_that_is_cancelled_during_the_copy_leaves_the_guest_where_it_is(moves: Moves, resident: str) -> None:
    guest = resident
    job = moves.submit(guest, "host-b", **SLOW)
    until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))
    jobs.cancel(job.id)
    ended = moves.ended(job.id)
    assert ended.state is JobState.ROLLED_BACK
    moves.nothing_left(ended)
    _nothing_at_the_destination(moves, guest)
    moves.intact(guest, "host-a")


@pytest.mark.thorough
def test_a_guest_whose_move_was_rolled_back_can_be_moved_again(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = moves.submit(guest, "host-b", **SLOW)
    until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))
    jobs.cancel(job.id)
    moves.ended(job.id)
    again = moves.move(guest, "host-b")
    moves.done(again)
    moves.intact(guest, "host-b")


def test_an_exporter_that_is_killed_means_a_new_copy_and_the_job_says_so(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=16 * MIB)
    until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))
    [nbd_server] = processes.find(f"{moves.directory(job, 'host-b')}/exporter")
    nbd_server.kill()
    ended = moves.ended(job.id)
    moves.done(ended)
    assert "tried again" in moves.events(job.id)
    moves.intact(guest, "host-b")


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_switch_process_that_is_killed_before_the_switch_costs_only_another_try(moves: Moves, side: str) -> None:
    guest = moves.boot()
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    host = "host-a" if side == "source" else "host-b"
    until(
        "RAM is being sent",
        lambda: any(line["event"] == "migrating" for line in moves.journal(job, "host-a", "source")),
    )
    for process in moves.processes_of(job, host):
        if b"workers.switchover" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            process.kill()
    ended = moves.ended(job.id)
    moves.done(ended)
    assert "tried again" in moves.events(job.id)
    moves.intact(guest, "host-b")


@pytest.mark.parametrize("host", ["host-a", "host-b"])
def test_a_worker_that_is_killed_during_the_copy_takes_its_step_up_again(moves: Moves, host: str) -> None:
    guest = moves.boot(fill_mib=32)
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=16 * MIB)
    until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))
    for process in processes.find(moves.lab.mark(f"worker-{host}")):
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)
    fleet.start_worker(moves.lab, moves.lab.host(host))
    ended = moves.ended(job.id)
    moves.done(ended)
    moves.intact(guest, "host-b")
