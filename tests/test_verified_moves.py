"""`--verify`: a move ends only when both sides' images are proven equal."""

from pathlib import Path

import pytest

from drover.views import sentences
from lab.guest.spec import DiskSpec
from models.documents import Range
from models.job import JobState
from tests.helpers import MIB, Moves, until
from workflows.migration import jobs

pytestmark = pytest.mark.guests

SLOW = {"verify": True, "verify_bytes_per_s": 4 * MIB}
PLACE = 95 * MIB + 7
"""Where this guest writes nothing."""


def damage(path: str, byte: bytes) -> None:
    with Path(path).open("r+b") as image:
        image.seek(PLACE)
        image.write(byte)


def test_a_flipped_byte_stops_the_move_and_the_source_keeps_its_images_until_both_are_equal(moves: Moves) -> None:
    disks = DiskSpec(size_bytes=64 * MIB), DiskSpec(size_bytes=96 * MIB, format="raw")
    guest = moves.boot(*disks, fill_mib=16)
    job = moves.submit(guest, "host-b", **SLOW)
    until("the images are being compared", lambda: moves.job(job.id).proof, 60)
    damage(job.disks[1].destination_path, b"\xee")
    job = moves.ended(job.id)

    assert job.state is JobState.NEEDS_OPERATOR, moves.story(job.id)
    assert job.proof is not None
    assert job.proof.disks[1].different == (Range(offset=95 * MIB, length=4096),)
    assert f"disk 1 differs at 1 place, 4096 bytes from {95 * MIB} on" in str(job.error)
    assert job.way_back_needed
    assert all(Path(disk.source_path).exists() for disk in job.disks), "the way back"
    assert sentences.places(job.proof) == [f"disk 1: 4096 bytes from {95 * MIB} on differ"]

    damage(job.disks[1].destination_path, b"\0")
    jobs.retry(job.id)
    job = moves.ended(job.id)
    moves.done(job)
    moves.intact(guest, "host-b")
    moves.nothing_left(job)
    assert job.proof is not None
    assert job.proof.finished
    assert job.proof.bytes_different == 0
    assert sum(disk.bytes_equal + disk.bytes_left_out for disk in job.proof.disks) == 160 * MIB
    assert not job.way_back_needed
