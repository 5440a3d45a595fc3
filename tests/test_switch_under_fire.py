"""Whoever dies at whatever point of the switch: one running copy at most, no acknowledged write lost.

The points are lines of the source's switch journal: the guest is paused from `pre-switchover` on, and `run` is the
point of no return. The signal follows the line within a millisecond or so.
"""

import time
from pathlib import Path

import pytest

from models.job import Job, JobState
from tests.support import MIB, Moves
from workers import processes
from workers.processes import Process

pytestmark = pytest.mark.guests

POINTS = ["migrating", "pre-switchover", "continuing", "run"]


def _victim(moves: Moves, job: Job, guest: str, who: str) -> Process:
    if who == "source QEMU":
        return processes.find(moves.lab.mark(f"guest-{guest}"))[0]
    if who in {"exporter", "incoming"}:
        return processes.find(f"{moves.directory(job, 'host-b')}/{who}")[0]
    host = "host-a" if who == "source switch" else "host-b"
    return next(
        process
        for process in moves.processes_of(job, host)
        if b"workers.switch" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    )


def _journal(moves: Moves, job: Job) -> Path:
    folder = moves.directory(job, "host-a")
    deadline = time.monotonic() + 60
    while not (found := list(folder.glob("switch-source-*.jsonl"))):
        assert time.monotonic() < deadline, "the switch process of the source was not started"
        time.sleep(0.001)
    return found[0]


def _strike(moves: Moves, guest: str, who: str, point: str) -> Job:
    """Submit the move and kill the victim when the source's journal reaches the point."""
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=48 * MIB)
    journal = _journal(moves, job)
    while b'"migrating"' not in journal.read_bytes():
        time.sleep(0.001)
    victim = _victim(moves, job, guest, who)
    sign = f'"{point}"'.encode()
    deadline = time.monotonic() + 60
    while sign not in journal.read_bytes():
        assert time.monotonic() < deadline, f"the switch never came to {point}"
    victim.kill()
    return moves.ended(job.id)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("who", ["source switch", "destination switch", "incoming", "exporter"])
def test_the_guest_survives_every_death_but_its_own(moves: Moves, who: str, point: str) -> None:
    guest = moves.boot()
    job = _strike(moves, guest, who, point)
    assert job.state in {JobState.DONE, JobState.UNDONE, JobState.NEEDS_OPERATOR}, moves.story(job.id)
    if job.state is JobState.NEEDS_OPERATOR:
        # Its own QEMU at the destination was killed after it was let run: the guest is lost, and the text says so.
        assert (who, point) == ("incoming", "run"), moves.story(job.id)
        assert "start it cold from the images on host-b" in (job.error or "")
        return
    moves.intact(guest, job.destination if job.state is JobState.DONE else job.source)
    moves.nothing_left(job)


@pytest.mark.parametrize("point", POINTS)
def test_a_guest_whose_own_qemu_dies_is_never_started_twice_and_the_record_says_what_happened(
    moves: Moves, point: str
) -> None:
    guest = moves.boot()
    job = _strike(moves, guest, "source QEMU", point)
    if job.state is JobState.DONE:
        moves.intact(guest, "host-b")
        return
    assert job.state is JobState.UNDONE, moves.story(job.id)
    assert "powered off or crashed" in (job.error or "") or "died before it was let run" in (job.error or "")
    moves.nothing_left(job)
