"""When nobody is left to act at the source, the guest does not stay paused: the attempt's guardian lets it go on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.job import Job
from tests.chaos.faults import is_guardian, is_switch
from tests.helpers import MIB, Moves, until
from workers.process import processes
from workers.process.processes import Process

pytestmark = pytest.mark.guests

SHOTS = 5
"""How often a pause of some hundredths of a second is aimed at."""


def _attempt(moves: Moves, job: Job) -> list[Process]:
    return [found for found in moves.processes_of(job, "host-a") if is_switch(found) or is_guardian(found)]


def _said(moves: Moves, job: Job, event: str) -> bool:
    return any(line["event"] == event for line in moves.journal(job, "host-a", "source"))


def _heard(moves: Moves, guest: str) -> int:
    return (moves.lab.host("host-a").guests / guest / "console.log").read_bytes().count(b"tick")


@contextmanager
def _worker_frozen(moves: Moves) -> Iterator[None]:
    """It takes no part in what happens meanwhile."""
    [worker] = processes.find(moves.lab.mark("worker-host-a"))
    worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.signal(signal.SIGCONT)


def _under_way(moves: Moves) -> tuple[str, Job, Process, Process]:
    """A guest whose RAM is being sent, its job, and the attempt's process and guardian."""
    guest = moves.boot()
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    until("RAM is being sent", lambda: _said(moves, job, "migrating"), every_s=0.002)
    attempt = _attempt(moves, job)
    [switch] = filter(is_switch, attempt)
    [guardian] = filter(is_guardian, attempt)
    return guest, job, switch, guardian


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_guest_goes_on_without_any_worker_when_worker_and_switch_process_are_lost_in_the_pause(
    moves: Moves, how: signal.Signals
) -> None:
    for _ in range(SHOTS):
        guest, job, switch, guardian = _under_way(moves)
        with _worker_frozen(moves):
            until("the guest is paused", lambda: _said(moves, job, "pre-switchover"), 180, every_s=0.0005)  # noqa: B023
            switch.signal(how)
            if struck := not _said(moves, job, "run"):
                _goes_on_at_the_source(moves, guest, job)
                until("the attempt left nothing behind", lambda: not (switch.alive or guardian.alive), 20)  # noqa: B023
        moves.done(moves.ended(job.id))
        moves.intact(guest, "host-b")
        moves.nothing_left(moves.job(job.id))
        if struck:
            return
    pytest.fail(f"the pause was missed {SHOTS} times")


def _goes_on_at_the_source(moves: Moves, guest: str, job: Job) -> None:
    until("the guardian let it go on", lambda: _said(moves, job, "kept"), 30)
    events = [line["event"] for line in moves.journal(job, "host-a", "source")]
    assert events.index("keeping") < events.index("kept"), "on record before the guest went on"
    before = _heard(moves, guest)
    until("the guest prints ticks at the source", lambda: _heard(moves, guest) > before + 2, 20)


@pytest.mark.thorough
def test_a_guest_that_was_told_to_run_at_the_destination_is_never_let_go_on_at_the_source(moves: Moves) -> None:
    guest, job, switch, guardian = _under_way(moves)
    with _worker_frozen(moves):
        until("the destination is told to run", lambda: _said(moves, job, "run"), every_s=0.0005)
        switch.kill()
        until("its guardian ended", lambda: not (switch.alive or guardian.alive), 20)
        assert not _said(moves, job, "kept")
        before = _heard(moves, guest)
    moves.done(moves.ended(job.id))
    assert _heard(moves, guest) == before, "it ran at the source"
    moves.intact(guest, "host-b")


def test_the_guardian_of_an_attempt_that_ends_in_order_ends_with_it(moves: Moves) -> None:
    _, job, _, guardian = _under_way(moves)
    assert Path(f"/proc/{guardian.pid}/stat").read_text().split()[5] == str(guardian.pid), "a session of its own"
    moves.done(moves.ended(job.id))
    assert not guardian.alive
    moves.nothing_left(moves.job(job.id))
