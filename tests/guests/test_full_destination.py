"""A destination whose file system gets full holds the copy up until there is room, and costs the guest nothing."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from drover.views import queries, serializers
from models.job import Job, JobState
from tests.filesystem import SmallFolder, guests_in_a_small_folder
from tests.helpers import MIB, Moves, until
from workflows.migration import jobs

pytestmark = pytest.mark.guests


def _held_up(moves: Moves, guest: str, small: SmallFolder) -> Job:
    """The guest's move, from when its destination got full."""
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=8 * MIB)
    until("the copy runs", lambda: moves.job(job.id).disks[0].bytes_copied > MIB)
    small.leave(8 * MIB)
    until("the job says what it waits for", lambda: _step_error(moves, job))
    return moves.job(job.id)


def _step_error(moves: Moves, job: Job) -> str:
    return next(step.error or "" for step in moves.job(job.id).steps if step.name == "await_sync")


def _is_said(console: Path, after: int, sign: bytes) -> bool:
    return console.read_bytes()[after:].count(sign) > 5


def _goes_on_at_the_source(moves: Moves, guest: str) -> None:
    console = moves.lab.host("host-a").guests / guest / "console.log"
    heard = console.stat().st_size
    for sign in (b"tick", b"ack"):
        until(f"the guest says {sign!r}", partial(_is_said, console, heard, sign))
    assert b"error" not in console.read_bytes()


def _document(job: Job) -> dict[str, Any]:
    return serializers.job_document(queries.snapshot(job.id), [])


def test_a_full_destination_holds_the_copy_up_which_goes_on_without_a_new_one_once_there_is_room(moves: Moves) -> None:
    guest = moves.boot(fill_mib=48)
    with guests_in_a_small_folder(moves, "host-b") as small:
        job = _held_up(moves, guest, small)
        path = job.disks[0].destination_path
        assert f"host-b has no room left for {path}: make room there" in _step_error(moves, job)
        assert f"`drover job cancel {job.id}`" in moves.events(job.id)
        [remark] = [step["error"] for step in _document(job)["steps"] if step["name"] == "await_sync"]
        assert "no room left" in remark
        _goes_on_at_the_source(moves, guest)
        small.enlarge()
        ended = moves.ended(job.id)
        moves.done(ended)
        assert "the move goes on" in moves.events(job.id)
        assert "tried again" not in moves.events(job.id), "the copy began anew"
        assert not _step_error(moves, job)
        moves.intact(guest, "host-b")


def test_a_job_that_is_held_up_by_a_full_destination_can_be_cancelled(moves: Moves) -> None:
    guest = moves.boot(fill_mib=48)
    with guests_in_a_small_folder(moves, "host-b") as small:
        job = _held_up(moves, guest, small)
        jobs.cancel(job.id)
        ended = moves.ended(job.id)
        assert ended.state is JobState.ROLLED_BACK
        moves.nothing_left(ended)
        assert not Path(ended.disks[0].destination_path).exists()
        moves.intact(guest, "host-a")
