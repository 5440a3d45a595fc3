"""`--verify`: a move ends only when both sides' images are proven equal."""

import shutil
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from drover.metrics import gauges
from drover.settings import settings
from drover.views import sentences
from lab import fleet
from lab.directory import Lab
from lab.guest.spec import DiskSpec
from models.base import now
from models.database import transaction
from models.documents import Range
from models.job import JobState, Side
from tests.helpers import MIB, Moves, until
from workers.hooks import Point
from workers.process import processes
from workflows.migration import jobs, operator_actions

pytestmark = [pytest.mark.thorough, pytest.mark.guests]

SLOW = {"verify": True, "verify_bytes_per_s": 4 * MIB}
PLACE = 95 * MIB + 7
"""Where this guest writes nothing."""


def damage(path: str, byte: bytes) -> None:
    with Path(path).open("r+b") as image:
        image.seek(PLACE)
        image.write(byte)


def test_what_a_flipped_byte_a_failed_check_and_a_failed_hook_do_to_a_move(moves: Moves) -> None:
    hooks, said = put_hooks(moves.lab)
    disks = DiskSpec(size_bytes=64 * MIB), DiskSpec(size_bytes=96 * MIB, format="raw")
    guest = moves.boot(*disks, fill_mib=16)
    job = moves.submit(guest, "host-b", **SLOW)
    until("the images are being compared", lambda: moves.job(job.id).proof, 60)
    for process in processes.find(f"{moves.directory(job, 'host-b')}/proof"):
        process.kill()  # another one is started, and compares from the beginning
    damage(job.disks[1].destination_path, b"\xee")
    job = moves.ended(job.id)

    assert job.state is JobState.NEEDS_OPERATOR, moves.events(job.id)
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
    assert not any(disk.bytes_left for disk in job.disks), "a move that is done has copied all"
    assert job.proof is not None
    assert job.proof.finished
    assert job.proof.bytes_different == 0
    assert sum(disk.bytes_equal + disk.bytes_left_out for disk in job.proof.disks) == 160 * MIB
    assert not job.way_back_needed
    assert job.health is not None
    assert (job.health.runstate, job.health.problems) == ("running", ())
    assert job.health.writes > 0
    assert said.read_text().splitlines() == HOOKS_OF_A_MOVE

    fleet.write_policy(moves.lab, checks='{"*" = {command = "/bin/false", deadline_s = 0.1}}')
    try:
        back = moves.move(guest, "host-a")
    finally:
        fleet.write_policy(moves.lab)
    moves.done(back)
    moves.intact(guest, "host-a")
    assert back.health is not None
    assert back.health.problems == ("the check of its owner failed within 0.1 s: /bin/false: it said nothing",)
    assert back.way_back_needed
    with transaction() as session:
        metrics = {metric.name: metric for metric in gauges.of_hosts(session, now(session), settings())}
    [alarm] = metrics["drover_guest_unwell"].samples
    assert (alarm.labels["guest"], alarm.labels["host"], alarm.labels["reason"]) == (guest, "host-a", "check")

    said.unlink()
    (hooks / "before-switchover.d/50-said").write_text("#!/bin/sh\necho the bridge is missing; exit 1\n")
    refused = moves.move(guest, "host-b")
    assert refused.state is JobState.ROLLED_BACK
    assert "the bridge is missing" in str(refused.error)
    moves.intact(guest, "host-a")
    moves.nothing_left(refused)
    assert said.read_text().splitlines() == [
        "before-copy destination",
        "before-copy source",
        "after-rollback source",
        "after-rollback destination",
    ]
    shutil.rmtree(hooks)


def test_after_a_failed_proof_the_source_goes_on_from_the_switchover_and_nothing_can_start_the_guest_elsewhere(
    moves: Moves,
) -> None:
    guest = moves.boot(DiskSpec(size_bytes=96 * MIB, format="raw"))
    job = moves.submit(guest, "host-b", **SLOW)
    until("the images are being compared", lambda: moves.job(job.id).proof, 60)
    damage(job.disks[0].destination_path, b"\xee")
    assert moves.ended(job.id).state is JobState.NEEDS_OPERATOR
    with pytest.raises(PreconditionFailed, match=f"systemctl stop drover-guest@{guest}"):
        operator_actions.resolve(job.id, Side.SOURCE, None)
    [qemu] = processes.find(f"{moves.directory(job, 'host-b')}/incoming")
    qemu.kill()
    launch = moves.lab.host("host-b").folder / "drover" / "launch" / f"{guest}.json"
    assert launch.exists()

    operator_actions.resolve(job.id, Side.SOURCE, None)

    ended = moves.ended(job.id)
    assert ended.state is JobState.ROLLED_BACK, moves.events(job.id)
    moves.intact(guest, "host-a")
    moves.nothing_left(ended)
    assert not launch.exists()
    kept = Path(f"{job.disks[0].destination_path}.drover-{job.id}")
    assert kept.exists(), "what the guest wrote there is nowhere else"
    assert str(kept) in moves.events(job.id)
    assert not Path(job.disks[0].destination_path).exists()


HOOKS_OF_A_MOVE = [
    "before-copy destination",
    "before-copy source",
    "before-switchover source",
    "before-switchover destination",
    "after-switchover destination",
    "after-switchover source",
    "after-cleanup source",
    "after-cleanup destination",
]


def put_hooks(lab: Lab) -> tuple[Path, Path]:
    """A hook at each point of a move; where they are, and what they write."""
    hooks, said = lab.policy.with_name("hooks"), lab.path / "said"
    for point in Point:
        program = hooks / f"{point}.d/50-said"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho $DROVER_HOOK $DROVER_SIDE >>{said}\n")
        program.chmod(0o755)
    return hooks, said
