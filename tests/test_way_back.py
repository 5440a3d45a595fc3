"""A guest that goes back to the images that it left behind needs only what it has written since, or is told why not."""

import pytest

from lab.guest.spec import DiskSpec
from models.job import Job
from tests.helpers import MIB, Moves

pytestmark = pytest.mark.guests


def sent(job: Job) -> list[int | None]:
    return [disk.delta_bytes for disk in job.disks]


def told(moves: Moves, job: Job) -> str:
    return moves.story(job.id)


def test_a_guest_goes_back_and_forth_with_what_it_has_written_since(moves: Moves) -> None:
    guest = moves.boot(DiskSpec(size_bytes=64 * MIB), DiskSpec(size_bytes=64 * MIB, format="raw"), write_rate=20)
    first = moves.move(guest, "host-b")
    moves.done(first)
    assert sent(first) == [None, None]
    moves.intact(guest, "host-b")
    for host in ("host-a", "host-b", "host-a"):
        job = moves.move(guest, host)
        moves.done(job)
        assert all(changed is not None and 0 < changed < 32 * MIB for changed in sent(job)), told(moves, job)
        moves.intact(guest, host)
