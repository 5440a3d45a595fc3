"""A limit that is changed by a command takes effect in the controller that runs already."""

import subprocess
from collections.abc import Iterator

import pytest

from lab.directory import Lab
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
