"""A limit that is changed by a command takes effect in the controller and the workers that run already."""

import subprocess
import time
from collections.abc import Iterator

import pytest

from lab.directory import Lab
from lab.guest.spec import DiskSpec
from models.job import JobState
from tests import factories
from tests.cli.support import DROVER
from tests.helpers import MIB, Moves, until

pytestmark = [pytest.mark.thorough, pytest.mark.guests]

OBEYED_S = 4.0
"""Two seconds, and as much again for a busy machine."""


@pytest.fixture(autouse=True)
def default_limits(lab: Lab) -> Iterator[None]:
    yield
    factories.limits(max_outgoing=2, bandwidth_bytes_per_s=0)


def fleet_set(*limits: str) -> None:
    subprocess.run([DROVER, "fleet", "set", *limits], check=True, capture_output=True)


def test_a_running_controller_admits_a_job_at_once_when_its_limit_is_raised(moves: Moves) -> None:
    fleet_set("max-outgoing=1")
    first, second = (moves.submit(moves.boot(), "host-b", bandwidth_bytes_per_s=MIB) for _ in range(2))
    until("the first begins", lambda: moves.job(first.id).state is JobState.RUNNING)
    until("the second is told why it waits", lambda: "1 move leaves host-a" in (moves.job(second.id).wait_reason or ""))
    fleet_set("max-outgoing=2")
    until("the second begins", lambda: moves.job(second.id).state is JobState.RUNNING, OBEYED_S)
    for job in (first, second):
        moves.hurry(job.id)
    for job in (first, second):
        moves.done(moves.ended(job.id))


def test_a_copy_that_is_under_way_gets_the_changed_budget(moves: Moves) -> None:
    fleet_set(f"bandwidth={MIB}B/s")
    guest = moves.boot(DiskSpec(size_bytes=128 * MIB, format="raw"), write_rate=0, fill_mib=64)
    job = moves.submit(guest, "host-b")

    def copied() -> int:
        return sum(disk.bytes_copied for disk in moves.job(job.id).disks)

    until("it copies", lambda: copied() > 0)
    before, begun = copied(), time.monotonic()
    until("seconds pass", lambda: time.monotonic() - begun > 3)
    assert copied() - before < 16 * MIB
    fleet_set("bandwidth=0")
    until("all is copied", lambda: all(disk.ready_at for disk in moves.job(job.id).disks), 3 * OBEYED_S)
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")
