"""The NBD client against a real storage daemon."""

import asyncio
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import MIB, until
from tests.qmp_guest import image
from workers.process.sockets import listens
from workers.qemu import nbd
from workers.qemu.monitor import connect
from workers.qemu.nbd import ALLOCATION, NbdLost, NoRoom

BITMAP = "written"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket at which a qcow2 image of 64 MiB is offered as `disk`, with 1 MiB of data at 50 MiB."""
    folder = tmp_path_factory.mktemp("nbd")
    path, monitor, unix = image(folder / "disk.qcow2", "qcow2", "64M"), folder / "qmp", folder / "nbd"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 50M 1M", str(path)], check=True)
    line = ["qemu-storage-daemon", "--chardev", f"socket,id=m,path={monitor},server=on,wait=off"]
    line += ["--monitor", "chardev=m", "--nbd-server", f"addr.type=unix,addr.path={unix},max-connections=0"]
    line += ["--blockdev", f"driver=qcow2,node-name=d,file.driver=file,file.filename={path},discard=unmap"]
    process = subprocess.Popen(line)
    try:
        until("it listens", lambda: listens(monitor))
        asyncio.run(_offer(monitor))
        yield unix
    finally:
        process.kill()
        process.wait()


async def _offer(path: Path) -> None:
    async with connect(path) as monitor:
        await monitor.execute("block-dirty-bitmap-add", node="d", name=BITMAP, granularity=4096)
        await monitor.execute(
            "block-export-add", type="nbd", id="x", node_name="d", name="disk", writable=True, bitmaps=[BITMAP]
        )
        full = {"event": "none", "iotype": "write", "errno": errno.ENOSPC}
        nothing = {"driver": "null-co", "size": MIB}
        await monitor.execute(
            "blockdev-add", driver="blkdebug", node_name="f", image=nothing, inject_error=[{**full, "once": True}]
        )
        await monitor.execute("block-export-add", type="nbd", id="f", node_name="f", name="full", writable=True)


@pytest.mark.guests
def test_what_is_written_is_read_again_and_is_in_the_extents(served: Path) -> None:
    async def run() -> None:
        async with nbd.connect(served, "disk", [ALLOCATION, nbd.bitmap(BITMAP)]) as disk:
            assert disk.size_bytes == 64 * MIB
            assert await disk.read(50 * MIB - 2, 4) == b"\0\0\7\7"
            assert await disk.read(10 * MIB, 4 * MIB) == bytes(4 * MIB)
            extents = await disk.extents(ALLOCATION, 0, 64 * MIB)
            assert [(it.offset, it.length) for it in extents if not it.is_zero] == [(50 * MIB, MIB)]
            await disk.write(20 * MIB + 5, b"abc")
            await disk.zeroes(50 * MIB, MIB)
            await disk.flush()
            assert await disk.read(20 * MIB, 10) == b"\0\0\0\0\0abc\0\0"
            dirty = [it for it in await disk.extents(nbd.bitmap(BITMAP), 0, 64 * MIB) if it.is_dirty]
            assert [(it.offset, it.length) for it in dirty] == [(20 * MIB, 4096), (50 * MIB, MIB)]
            clipped = await disk.extents(nbd.bitmap(BITMAP), 50 * MIB + 4096, 8192)
            assert [(it.offset, it.length, it.is_dirty) for it in clipped] == [(50 * MIB + 4096, 8192, True)]

    asyncio.run(run())


@pytest.mark.guests
def test_a_refused_request_does_not_end_the_connection(served: Path) -> None:
    async def run() -> None:
        async with nbd.connect(served, "disk") as disk:
            with pytest.raises(NbdLost, match="reports error"):
                await disk.read(64 * MIB, 512)
            assert await disk.read(0, 1) == b"\0"

    asyncio.run(run())


@pytest.mark.guests
def test_a_server_without_room_is_told_from_others_and_may_be_asked_again(served: Path) -> None:
    async def run() -> None:
        async with nbd.connect(served, "full") as disk:
            with pytest.raises(NoRoom):
                await disk.write(0, b"abc")
            await disk.write(0, b"abc")

    asyncio.run(run())


@pytest.mark.guests
@pytest.mark.parametrize(("export", "contexts"), [("none", []), ("disk", ["qemu:dirty-bitmap:none"])])
def test_what_is_not_offered_is_named(served: Path, export: str, contexts: list[str]) -> None:
    async def run() -> None:
        async with nbd.connect(served, export, contexts):
            pass

    with pytest.raises(NbdLost, match="none"):
        asyncio.run(run())


def test_nobody_listens(tmp_path: Path) -> None:
    async def run() -> None:
        async with nbd.connect(tmp_path / "nowhere", "disk"):
            pass

    with pytest.raises(NbdLost, match="no NBD server answers"):
        asyncio.run(run())
