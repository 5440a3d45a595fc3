"""One QEMU has one name, also by its other monitor and after it has moved; submissions with one key are one job."""

import os
import subprocess

import pytest

from drover.errors import PreconditionFailed
from lab import fleet
from models.job import JobState
from models.plan import Inspection
from tests.helpers import MIB, Moves, until
from workflows import guest_scan, guests
from workflows.migration import jobs, preflight

pytestmark = pytest.mark.guests


def _adopt_by_its_other_monitor(moves: Moves, guest: str, host: str, name: str) -> None:
    guests.adopt(name, host, str(moves.lab.host(host).guests / guest / "watch.sock"))


@pytest.mark.thorough
def test_a_guest_keeps_one_name_before_during_and_after_its_move(moves: Moves) -> None:
    guest = moves.boot(fill_mib=16)
    with pytest.raises(PreconditionFailed, match=rf"this QEMU \(pid \d+\) is known as {guest} already"):
        _adopt_by_its_other_monitor(moves, guest, "host-a", f"{guest}-again")
    _found_by_a_scan(guest)
    submitted = _three_at_once(moves, guest, f"key-{guest}")
    [number] = set(submitted)
    with pytest.raises(PreconditionFailed, match=rf"{guest} is being moved already by job {number}"):
        _adopt_by_its_other_monitor(moves, guest, "host-a", guest)
    [there] = guest_scan.scan("host-a")
    assert (there.guest, there.qemu.job, there.qemu.qmp, there.name) == (guest, number, None, None)
    moves.done(moves.ended(number))
    with pytest.raises(PreconditionFailed, match=rf"this QEMU \(pid \d+\) is known as {guest} already"):
        _adopt_by_its_other_monitor(moves, guest, "host-b", f"{guest}-again")
    moves.intact(guest, "host-b")


def _found_by_a_scan(guest: str) -> None:
    """Known while it has a record; without one it can be adopted, by a monitor that is free."""
    [known] = guest_scan.scan("host-a")
    assert (known.guest, known.reasons, known.name) == (guest, (), None)
    guests.forget(guest)
    found = guest_scan.scan("host-a")
    assert [(one.guest, one.name, one.unnamed) for one in found] == [(None, guest, None)]
    [adopted] = guest_scan.adopt("host-a", found)
    assert (adopted.guest, adopted.reasons) == (guest, ())
    assert guests.known_guest(guest).process == known.qemu.process


def _three_at_once(moves: Moves, guest: str, key: str) -> list[int]:
    """The jobs that three commands answer, each begun before another has ended."""
    words = ("migrate", guest, "--to", "host-b", "--bandwidth", "8M/s", "--idempotency-key", key)
    started = [
        subprocess.Popen(
            [fleet._program("drover"), *words],
            env=os.environ | moves.lab.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    return [int(out.split()[1]) for out, _ in said]


def test_a_second_submission_is_told_to_leave_the_image_of_the_first_alone(moves: Moves) -> None:
    guest = moves.boot(fill_mib=32)
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=4 * MIB)
    until("the image is made", lambda: moves.step_is(job.id, "prepare_dest_image", "done"))
    image = moves.job(job.id).disks[0].destination_path
    planned = moves.job(job.id).plan
    assert planned is not None
    said = _refusal_at_the_destination(guest, planned.source)
    assert f"{image} exists already and belongs to job {job.id}, leave it" in said
    jobs.cancel(job.id)
    assert moves.ended(job.id).state is JobState.ROLLED_BACK


def _refusal_at_the_destination(guest: str, inspection: Inspection) -> str:
    """The destination's answer to a plan for a guest whose job got there already."""
    with pytest.raises(PreconditionFailed) as refused:
        preflight.planned_at("host-b", guests.known_guest(guest), inspection)
    return str(refused.value)
