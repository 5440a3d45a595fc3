"""What a guest writes after its move is recorded from the switchover on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.qmp_guest import Start, guest_line, guests, make_images
from workers.qemu import written
from workers.qemu.disks import disk_refusals
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


@pytest.mark.guests
def test_an_incoming_qemu_records_what_is_written_to_every_disk(tmp_path: Path, start: Start) -> None:
    guest = start([*line(tmp_path), "-incoming", "defer"], tmp_path / "qmp")
    disks = asyncio.run(recorded(tmp_path))
    assert len(disks) == 8
    assert all(disk.bitmaps == {OURS: Bitmap(granularity=FINEST, count=0)} for disk in disks.values())
    assert not disk_refusals(**guest.block()), "its next move must not be refused for it"


@pytest.mark.guests
def test_writes_are_counted_in_whole_pages(tmp_path: Path, start: Start) -> None:
    guest = start(line(tmp_path), tmp_path / "qmp")
    asyncio.run(recorded(tmp_path))
    said = guest("human-monitor-command", command_line='qemu-io -d vb1/virtio-backend "write 6000 10"')
    assert not said or "wrote" in said, said
    after = asyncio.run(seen(tmp_path))
    assert {disk.node for disk in after.values() if disk.bitmaps[OURS].count} == {"n1"}
    assert [disk.bitmaps[OURS].count for disk in after.values() if disk.node == "n1"] == [FINEST]


def test_the_memory_of_a_bitmap_is_bounded() -> None:
    assert written.granularity(1 << 36) == FINEST
    assert written.granularity((1 << 36) + 1) == 2 * FINEST
