"""Real guests are moved between two hosts, and every acknowledged write is looked up afterwards."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from lab.guest.spec import DiskSpec
from models.database import transaction
from models.guest import Guest
from models.job import DOWNTIME_PHASES, Disk
from models.sample import Sample
from tests.helpers import MIB, Moves, until
from workers.qemu.monitor import connect

pytestmark = pytest.mark.guests

IDLE = {"write_rate": 0, "dirty_mib": 0, "dirty_rate": 0}
BUSY = {"write_rate": 400, "dirty_mib": 32, "dirty_rate": 16}


@pytest.mark.parametrize("load", [IDLE, BUSY], ids=["idle", "busy"])
@pytest.mark.parametrize(
    "disks",
    [
        [DiskSpec(size_bytes=64 * MIB)],
        [DiskSpec(size_bytes=64 * MIB, format="raw", attach="drive")],
        [
            DiskSpec(size_bytes=96 * MIB),
            DiskSpec(size_bytes=48 * MIB, format="raw", bus="virtio-scsi"),
            DiskSpec(size_bytes=32 * MIB, attach="drive", bus="virtio-scsi"),
        ],
    ],
    ids=["qcow2", "raw legacy drive", "three disks"],
)
def test_a_guest_moves_there_and_back_and_loses_nothing(
    moves: Moves, disks: list[DiskSpec], load: dict[str, Any]
) -> None:
    guest = moves.boot(*disks, fill_mib=8, **load)
    for source, destination in (("host-a", "host-b"), ("host-b", "host-a")):
        job = moves.move(guest, destination)
        moves.done(job)
        moves.intact(guest, destination)
        moves.nothing_left(job)
        assert all(step.state == "done" for step in job.steps)
        assert all(disk.ready_at and disk.bytes_copied > 0 for disk in job.disks)
        assert (job.source, job.destination) == (source, destination)
        _delete_retired(moves, job.id)


def _delete_retired(moves: Moves, job_id: int) -> None:
    for disk in moves.job(job_id).disks:
        Path(str(disk.retired_path)).unlink()


def test_after_the_move_the_record_names_the_new_host_and_the_old_images_are_set_aside(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.move(guest, "host-b")
    moves.done(job)
    with transaction() as session:
        record = session.get_one(Guest, guest)
    assert record.host == "host-b"
    assert Path(record.qmp).is_socket()
    [disk] = job.disks
    assert not Path(disk.source_path).exists()
    assert Path(str(disk.retired_path)).exists()
    assert disk.retired_until is not None
    with transaction() as session:
        samples = session.scalars(select(Sample).where(Sample.job_id == job.id)).all()
    assert {sample.of_ram for sample in samples} == {True, False}
    assert sum(sample.of_ram for sample in samples) >= 2, "one of its begin and one of its end, however short it is"


def test_images_that_were_set_aside_are_deleted_when_their_time_is_over(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.move(guest, "host-b")
    moves.done(job)
    kept = Path(str(job.disks[0].retired_path))
    assert kept.exists()
    with transaction() as session:
        session.get_one(Disk, (job.id, 0)).retired_until = job.created_at
    until("the worker has deleted it", lambda: not kept.exists(), 30)
    assert Path(job.disks[0].destination_path).exists()


def test_the_images_at_the_destination_are_created_like_those_at_the_source(moves: Moves) -> None:
    from tests.images import info

    guest = moves.boot(DiskSpec(size_bytes=64 * MIB + 512), DiskSpec(size_bytes=32 * MIB, format="raw"))
    job = moves.move(guest, "host-b")
    moves.done(job)
    for disk in job.disks:
        source, destination = info(str(disk.retired_path)), info(disk.destination_path)
        for key in ("format", "virtual-size", "cluster-size"):
            assert source.get(key) == destination.get(key)


def test_zeroes_that_were_once_written_take_no_room_at_the_destination(moves: Moves) -> None:
    guest = moves.boot(DiskSpec(size_bytes=256 * MIB, format="raw"))
    source = moves.lab.host("host-a").guests / guest / "disk0.raw"
    _write_zeroes(moves, guest, "/machine/peripheral/device0/virtio-backend", at_mib=128, mib=96)
    assert source.stat().st_blocks * 512 > 96 * MIB
    job = moves.move(guest, "host-b")
    moves.done(job)
    assert Path(job.disks[0].destination_path).stat().st_blocks * 512 < 64 * MIB
    moves.intact(guest, "host-b")


def _write_zeroes(moves: Moves, guest: str, device: str, *, at_mib: int, mib: int) -> None:
    """As a guest that deletes without TRIM and overwrites: beyond what ours writes itself."""

    async def write() -> None:
        async with connect(moves.lab.host("host-a").guests / guest / "watch.sock") as monitor:
            assert await monitor.hmp(f'qemu-io -d {device} "write -q -P 0 {at_mib}M {mib}M"') == ""

    asyncio.run(write())


def test_the_downtime_is_told_with_a_name_for_each_part(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.move(guest, "host-b")
    moves.done(job)
    assert job.downtime is not None
    assert job.downtime.ms is not None
    assert job.downtime.ms > 0
    phases = job.downtime.phases
    assert set(phases) == set(DOWNTIME_PHASES)
    assert sum(phases.values()) == pytest.approx(job.downtime.ms, abs=0.1)
    assert all(ms >= 0 for name, ms in phases.items() if name != "messages")
