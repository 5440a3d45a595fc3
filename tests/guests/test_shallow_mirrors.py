"""A mirror of what lies above a backing file: it stays thin, and no write is missed as it begins."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.guests.test_mirrors import daemon
from tests.helpers import MIB
from tests.qmp_guest import image
from workers.qemu import block, target
from workers.qemu.block import ExportedImage
from workers.qemu.monitor import Monitor, connect

pytestmark = pytest.mark.guests
BASE_MIB = 24


def qemu_io(*words: str) -> None:
    subprocess.run(["qemu-io", *words], check=True, capture_output=True)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The monitors of a source, which writes an overlay on a base, and of an NBD server with the same base."""
    base = image(tmp_path / "base", "qcow2", "64M")
    qemu_io("-c", f"write -P 7 8M {BASE_MIB}M", str(base))
    for name in ("source", "target"):
        image(tmp_path / name, "qcow2", "64M", "-b", str(base), "-F", "qcow2")
    qemu_io("-c", "write -P 8 10M 1M", "-c", "write -z 12M 1M", str(tmp_path / "source"))
    disk = f"qcow2,node-name=disk,file.driver=file,file.filename={tmp_path}/source"
    with ExitStack() as stack:
        there = daemon(tmp_path, "there", "--nbd-server", f"addr.type=unix,addr.path={tmp_path}/nbd")
        here = daemon(
            tmp_path,
            "here",
            *("--blockdev", disk, "--nbd-server", f"addr.type=unix,addr.path={tmp_path}/guest"),
            *("--export", "nbd,id=g,node-name=disk,name=g,writable=on"),
        )
        yield stack.enter_context(here), stack.enter_context(there)


async def _export(there: Path, folder: Path) -> None:
    async with connect(there) as monitor:
        backing = ((str(folder / "base"), "qcow2"),)
        made = ExportedImage(
            index=0, path=str(folder / "target"), format="qcow2", export="x0", detect_zeroes="off", backing=backing
        )
        await block.export(monitor, made)


async def _finished(monitor: Monitor) -> None:
    await block.set_speeds(monitor, {"drover-1-0": 0})
    async with asyncio.timeout(60):
        while not (await block.mirrors(monitor, ["drover-1-0"]))["drover-1-0"].in_sync:
            await asyncio.sleep(0.02)
    await block.end_mirrors(monitor, ["drover-1-0"], 30, lambda: None)


def test_only_what_lies_above_the_backing_file_is_copied_and_both_are_equal(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    async def copy() -> bool:
        await _export(sides[1], tmp_path)
        async with connect(sides[0]) as monitor:
            server = {"path": f"{tmp_path}/nbd", "export": "x0"}
            await target.connect(monitor, "drover-1-0", server, discard="ignore", zeroes="off")
            proven = await block.start_without_missing_a_write(monitor, "drover-1-0", "disk")
            qemu_io("-f", "raw", "-c", "write -P 9 40M 1M", f"nbd+unix:///g?socket={tmp_path}/guest")
            await _finished(monitor)
            return proven and not await block.unproven(monitor)

    assert asyncio.run(copy())
    same = ["qemu-img", "compare", "-U", str(tmp_path / "source"), str(tmp_path / "target")]
    assert subprocess.run(same, capture_output=True).returncode == 0
    assert (tmp_path / "target").stat().st_blocks * 512 < BASE_MIB * MIB // 4


def test_a_mirror_that_may_have_missed_a_write_is_told_and_leaves_nothing(
    sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = block._start_mirror

    async def begin_while_the_guest_writes(monitor: Monitor, *which: object) -> None:
        await begin(monitor, *which)  # type: ignore[arg-type]
        words = ("-f", "raw", "-c", "write -P 9 40M 64k", f"nbd+unix:///g?socket={tmp_path}/guest")
        await asyncio.to_thread(qemu_io, *words)

    monkeypatch.setattr(block, "_start_mirror", begin_while_the_guest_writes)

    async def start() -> None:
        await _export(sides[1], tmp_path)
        async with connect(sides[0]) as monitor:
            server = {"path": f"{tmp_path}/nbd", "export": "x0"}
            await target.connect(monitor, "drover-1-0", server, discard="ignore", zeroes="off")
            assert not await block.start_without_missing_a_write(monitor, "drover-1-0", "disk")
            assert await block.unproven(monitor) == {"drover-1-0"}
            await block.drop_mirrors(monitor, ["drover-1-0"])
            assert await block.unproven(monitor) == set()
            assert await block.mirrors(monitor, ["drover-1-0"]) == {}

    asyncio.run(start())
