"""What a guest writes after its move is recorded from the switchover on."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.qmp_guest import Start, guest_line, guests, make_images
from workers.qemu import written
from workers.qemu.disks import disk_checks
from workers.qemu.monitor import connect
from workers.qemu.written import FINEST, Bitmap, Disk


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


def line(folder: Path) -> list[str]:
    make_images(folder)
    return [*guest_line(folder), "-S", "-qmp", f"unix:{folder}/qmp2,server=on,wait=off"]


OURS = written.name(7, "nonce")


async def recorded(folder: Path) -> dict[int, Disk]:
    async with connect(folder / "qmp2") as monitor:
        await written.record(monitor, written.name(7, "nonce of a copy that was begun anew"))
        await written.record(monitor, OURS)
        await written.record(monitor, OURS)  # by a worker that goes on with the step
        return await written.disks(monitor)


async def seen(folder: Path) -> dict[int, Disk]:
    async with connect(folder / "qmp2") as monitor:
        return await written.disks(monitor)


async def watched(folder: Path, sizes: Mapping[str, int], *, runs: bool = True) -> None:
    async with connect(folder / "qmp2") as monitor:
        await written.watch_size(monitor, OURS, sizes, runs=runs)


@pytest.mark.guests
def test_an_incoming_qemu_records_what_is_written_to_every_disk(tmp_path: Path, start: Start) -> None:
    guest = start([*line(tmp_path), "-incoming", "defer"], tmp_path / "qmp")
    disks = asyncio.run(recorded(tmp_path))
    assert len(disks) == 8
    assert all(disk.bitmaps == {OURS: Bitmap(granularity=FINEST, count=0)} for disk in disks.values())
    assert not disk_checks(guest.block()), "its next move must not be refused for it"


@pytest.mark.guests
def test_writes_are_counted_in_whole_pages(tmp_path: Path, start: Start) -> None:
    guest = start(line(tmp_path), tmp_path / "qmp")
    asyncio.run(recorded(tmp_path))
    said = guest("human-monitor-command", command_line='qemu-io -d vb1/virtio-backend "write 6000 10"')
    assert not said or "wrote" in said, said
    after = asyncio.run(seen(tmp_path))
    assert {disk.node for disk in after.values() if disk.bitmaps[OURS].count} == {"n1"}
    assert [disk.bitmaps[OURS].count for disk in after.values() if disk.node == "n1"] == [FINEST]


@pytest.mark.guests
def test_a_qemu_that_waits_for_its_guest_is_watched_already(tmp_path: Path, start: Start) -> None:
    guest = start([*line(tmp_path), "-incoming", "defer"], tmp_path / "qmp")
    sizes = {disk.node: disk.size_bytes for disk in asyncio.run(recorded(tmp_path)).values()}
    asyncio.run(watched(tmp_path, sizes, runs=False))
    assert all(OURS in disk.never_smaller for disk in asyncio.run(seen(tmp_path)).values())
    assert "drover-blank" not in str(guest("query-named-block-nodes"))
    assert guest("query-status")["status"] == "inmigrate"


@pytest.mark.guests
def test_a_disk_that_was_smaller_meanwhile_is_told_from_one_that_was_larger(tmp_path: Path, start: Start) -> None:
    """Its bitmap misses what a disk lost: it reads as zeroes."""
    guest = start(line(tmp_path), tmp_path / "qmp")
    disks = asyncio.run(recorded(tmp_path)).values()
    other, sizes = "n1", {disk.node: disk.size_bytes for disk in disks}
    asyncio.run(watched(tmp_path, {**sizes, other: sizes[other] + 512}))
    assert {disk.node for disk in asyncio.run(seen(tmp_path)).values() if OURS not in disk.never_smaller} == {other}
    asyncio.run(watched(tmp_path, sizes))
    assert all(disk.bitmaps[OURS].count == 0 for disk in asyncio.run(seen(tmp_path)).values())
    assert "drover-blank" not in str(guest("query-named-block-nodes"))

    size = sizes[other]
    for changed in (size + FINEST, size):
        guest("block_resize", node_name=other, size=changed)
    assert all(OURS in disk.never_smaller for disk in asyncio.run(seen(tmp_path)).values())
    for changed in (size - FINEST, size):
        guest("block_resize", node_name=other, size=changed)
    after = asyncio.run(seen(tmp_path)).values()
    assert {disk.node for disk in after if OURS not in disk.never_smaller} == {other}
    assert {disk.bitmaps[OURS].count for disk in after} == {0}, "QEMU has not recorded it"
    assert not disk_checks(guest.block()), "its next move must not be refused for it"


def test_the_memory_of_a_bitmap_is_bounded() -> None:
    assert written.granularity(1 << 36) == FINEST
    assert written.granularity((1 << 36) + 1) == 2 * FINEST
