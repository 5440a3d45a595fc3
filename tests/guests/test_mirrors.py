"""Mirrors of several disks, between two storage daemons; the target's is as slow as a busy link."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.helpers import MIB, until
from workers.process.sockets import listens
from workers.qemu import block
from workers.qemu.block import Mirror
from workers.qemu.monitor import connect

DISKS, DISK_MIB, LINK_MIB_PER_S = 3, 96, 32
ON_ITS_WAY_MIB = 16
"""What one mirror has on its way at the most (`buf-size`)."""


@contextmanager
def daemon(folder: Path, name: str, *argv: str) -> Iterator[Path]:
    monitor = folder / f"{name}.qmp"
    line = ["qemu-storage-daemon", "--chardev", f"socket,id=m,path={monitor},server=on,wait=off"]
    process = subprocess.Popen([*line, "--monitor", "chardev=m", *argv])
    try:
        until(f"{name} listens", lambda: listens(monitor))
        yield monitor
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def two_sides(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The monitor of a source with disks full of data, whose targets are connected through a slow link."""
    nbd = tmp_path / "nbd"
    limit = f"throttle-group,id=link,x-bps-total={LINK_MIB_PER_S * MIB}"
    there = ["--object", limit, "--nbd-server", f"addr.type=unix,addr.path={nbd},max-connections=100"]
    here: list[str] = []
    for number in range(DISKS):
        (tmp_path / f"source{number}").write_bytes(os.urandom(DISK_MIB * MIB))
        with (tmp_path / f"target{number}").open("wb") as target:
            target.truncate(DISK_MIB * MIB)
        here += ["--blockdev", f"file,node-name=disk{number},filename={tmp_path}/source{number}"]
        there += ["--blockdev", f"file,node-name=file{number},filename={tmp_path}/target{number}"]
        there += ["--blockdev", f"throttle,node-name=slow{number},file=file{number},throttle-group=link"]
        there += ["--export", f"nbd,id=x{number},node-name=slow{number},name=x{number},writable=on"]
    with ExitStack() as stack:
        stack.enter_context(daemon(tmp_path, "there", *there))
        yield stack.enter_context(daemon(tmp_path, "here", *here)), nbd


@pytest.mark.guests
def test_mirrors_that_are_begun_together_hardly_copy_until_all_are_there_and_then_all_do(
    two_sides: tuple[Path, Path],
) -> None:
    monitor_path, nbd = two_sides
    disks = {f"m{number}": f"disk{number}" for number in range(DISKS)}

    async def begin() -> tuple[dict[str, Mirror], dict[str, int], dict[str, Mirror]]:
        async with connect(monitor_path) as monitor:
            for number, name in enumerate(disks):
                server = {"type": "unix", "path": str(nbd)}
                await monitor.execute("blockdev-add", driver="nbd", node_name=name, server=server, export=f"x{number}")
            ready = monitor.listen("BLOCK_JOB_READY")
            await block.start_mirrors(monitor, disks)
            await block.set_speeds(monitor, dict.fromkeys(disks, 0))
            at_first = await block.mirrors(monitor, list(disks))
            speeds = {job["device"]: job["speed"] for job in await monitor.query("query-block-jobs")}
            async with asyncio.timeout(60):
                for _ in disks:
                    await ready.get()
            return at_first, speeds, await block.mirrors(monitor, list(disks))

    at_first, speeds, at_last = asyncio.run(begin())
    copied = sum(mirror.copied_bytes for mirror in at_first.values())
    assert copied <= (DISKS * ON_ITS_WAY_MIB + LINK_MIB_PER_S // 2) * MIB  # else each start waited for all the others
    assert set(speeds.values()) == {0}
    assert all(mirror.in_sync for mirror in at_last.values())
