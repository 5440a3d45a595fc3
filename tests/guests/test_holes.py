"""What becomes of holes, zeroes and allocated room of a disk, between a QEMU and an NBD server."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.plan import SourceDisk
from tests.helpers import MIB, until
from tests.qmp_guest import QEMU, Start, guests, image
from workers.disks import mirrors
from workers.images import manifest
from workers.process.sockets import listens
from workers.qemu import block, target
from workers.qemu.block import ExportedImage, Mirror
from workers.qemu.disks import source_disks
from workers.qemu.known_bugs import mirror_counts_holes, target_detect_zeroes
from workers.qemu.monitor import Monitor, connect

SIZE_MIB, DATA_MIB, RATE = 128, 4, 8 * MIB
KINDS = {
    "plain": ("qcow2", ()),
    "metadata": ("qcow2", ("-o", "preallocation=metadata")),
    "falloc": ("qcow2", ("-o", "preallocation=falloc")),
    "raw": ("raw", ()),
    "rawfull": ("raw", ("-o", "preallocation=full")),
}
THICK = {"falloc", "rawfull"}


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


@pytest.fixture
def nbd_server(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The monitor of a storage daemon, and where it serves images."""
    monitor, nbd = tmp_path / "there.qmp", tmp_path / "nbd"
    line = ["qemu-storage-daemon", "--chardev", f"socket,id=m,path={monitor},server=on,wait=off"]
    line += ["--monitor", "chardev=m", "--nbd-server", f"addr.type=unix,addr.path={nbd},max-connections=0"]
    process = subprocess.Popen(line)
    try:
        until("it listens", lambda: listens(monitor))
        yield monitor, nbd
    finally:
        process.kill()
        process.wait()


def allocated_mib(path: Path) -> int:
    return path.stat().st_blocks * 512 // MIB


@pytest.mark.guests
def test_holes_cost_no_bandwidth_thin_images_stay_thin_and_thick_ones_thick(
    tmp_path: Path, start: Start, nbd_server: tuple[Path, Path]
) -> None:
    line = [QEMU, "-display", "none", "-M", "q35", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    line += ["-qmp", f"unix:{tmp_path}/q2,server=on,wait=off"]
    for kind, (fmt, options) in KINDS.items():
        path = image(tmp_path / f"{kind}.{fmt}", fmt, f"{SIZE_MIB}M", *options)
        subprocess.run(["qemu-io", "-f", fmt, "-c", f"write -q -P 7 50M {DATA_MIB}M", str(path)], check=True)
        line += ["-drive", f"file={path},if=none,id=d-{kind},format={fmt}", "-device", f"virtio-blk-pci,drive=d-{kind}"]
    guest = start(line, tmp_path / "q")
    disks = {Path(disk.path).stem: disk for disk in source_disks(guest.block())}
    assert {kind for kind, disk in disks.items() if "preallocation" in disk.create_options} == THICK
    took = asyncio.run(copied(tmp_path, disks, nbd_server))
    guest.close()
    for kind, (fmt, _) in KINDS.items():
        names = [str(tmp_path / f"{kind}.{fmt}"), str(tmp_path / f"{kind}.copy")]
        subprocess.run(["qemu-img", "compare", "-q", "-f", fmt, "-F", fmt, *names], check=True)
        room = allocated_mib(tmp_path / f"{kind}.copy")
        assert room >= SIZE_MIB if kind in THICK else room < DATA_MIB + 4, (kind, room)
    assert took["plain"] < SIZE_MIB * MIB / RATE / 2  # holes were charged: 16 s
    assert took["raw"] < SIZE_MIB * MIB / RATE / 2


async def copied(folder: Path, disks: dict[str, SourceDisk], nbd_server: tuple[Path, Path]) -> dict[str, float]:
    """Mirror all of them, as QEMU 10.0.2 has to; answers the seconds that each took."""
    qmp, nbd = nbd_server
    served = dict[str, ExportedImage]()
    servers = {kind: {"path": str(nbd), "export": f"x-{kind}"} for kind in disks}
    async with connect(qmp) as there, connect(folder / "q2") as here:
        for index, (kind, disk) in enumerate(disks.items()):
            path = folder / f"{kind}.copy"
            path.touch()
            manifest.create(path, disk.format, disk.virtual_size_bytes, disk.create_options)
            discard = "ignore" if kind in THICK else "unmap"
            detect = "off" if kind in THICK or disk.format == "qcow2" else "unmap"
            served[kind] = ExportedImage(
                index=index,
                path=str(path),
                format=disk.format,
                export=f"x-{kind}",
                discard=discard,
                detect_zeroes=detect,
            )
            await block.export(there, served[kind])
            await target.connect(
                here, kind, servers[kind], zeroes="unmap", discard="ignore" if disk.format == "qcow2" else "unmap"
            )
        await block.start_mirrors(here, {kind: disk.device for kind, disk in disks.items()})
        late = {kind: servers[kind] for kind, disk in disks.items() if disk.format == "qcow2"}
        await target.spare_holes(here, late, dict.fromkeys(late, "unmap"))
        slow = {kind: RATE if kind in {"plain", "raw"} else 0 for kind in disks}
        await block.set_speeds(here, slow)
        took = await _seconds(here, list(disks))
        await block.end_mirrors(here, list(disks), 10, lambda: None)
        await here.execute_each("blockdev-del", ({"node_name": kind} for kind in disks))
        await there.execute_each("block-export-del", ({"id": f"x-{kind}", "mode": "hard"} for kind in disks))
        while await block.exports(there):
            await asyncio.sleep(0.01)
        nodes = [node for image in served.values() for node in image.nodes]
        await there.execute_each("blockdev-del", ({"node_name": node} for node in nodes))
    return took


async def _seconds(monitor: Monitor, names: list[str]) -> dict[str, float]:
    begun, took = time.monotonic(), dict[str, float]()
    async with asyncio.timeout(60):
        while len(took) < len(names):
            for name, mirror in (await block.mirrors(monitor, names)).items():
                if mirror.ready:
                    took.setdefault(name, time.monotonic() - begun)
            await asyncio.sleep(0.05)
    return took


def test_zeroes_are_left_to_the_other_side_unless_two_requests_may_meet_in_a_cluster() -> None:
    assert target_detect_zeroes((10, 0, 2), "qcow2", 65536) == "unmap"
    assert target_detect_zeroes((10, 0, 2), "qcow2", None) == "unmap"
    assert target_detect_zeroes((10, 0, 2), "qcow2", 2 * MIB) == "off"
    assert target_detect_zeroes((10, 0, 2), "qcow2", 2 * MIB, 2 * MIB) == "unmap"
    assert target_detect_zeroes((11, 0, 2), "qcow2", 2 * MIB) == "unmap"
    assert target_detect_zeroes((7, 2, 22), "raw", None) == "unmap"


def test_which_qemu_counts_holes() -> None:
    assert mirror_counts_holes((10, 0, 2), "qcow2", "ignore")
    assert not mirror_counts_holes((10, 0, 13), "qcow2", "unmap")
    assert mirror_counts_holes((10, 0, 13), "raw", "unmap")
    assert not mirror_counts_holes((11, 1, 3), "raw", "unmap")


def context(allocated: int | None) -> Any:
    """Of a disk of 1000 bytes."""
    ours = SimpleNamespace(format="qcow2")
    planned = SimpleNamespace(virtual_size_bytes=1000, discard="ignore", allocated_bytes=allocated)
    return SimpleNamespace(source=SimpleNamespace(disks=[ours], qemu_version=(10, 0, 2)), disks=[planned])


def counted(allocated: int | None, copied: int, total: int, **how: Any) -> tuple[int, int]:
    mirror = Mirror(
        status="running", copied_bytes=copied, total_bytes=total, ready=False, healthy=True, no_room=False, error=None
    )
    return mirrors.without_holes(cast("Any", context(allocated)), 0, mirror, **how)


def test_holes_are_not_counted_as_copied() -> None:
    assert counted(100, 1000, 1000) == (100, 100)
    assert counted(100, 500, 1000) == (50, 100)
    assert counted(100, 1300, 1400) == (400, 500)  # of what the guest wrote anew all counts
    assert counted(None, 500, 1000) == (500, 1000)
    assert counted(2000, 500, 1000) == (500, 1000)
    assert counted(100, 0, 0) == (0, 0)


def test_what_was_data_stays_data_when_the_limit_is_lifted() -> None:
    earlier = mirrors.Passed(at=1.0, counted_bytes=500, data_bytes=90)
    assert counted(100, 600, 1000, earlier=earlier, at=2.0) == (90, 100)
    for limit in (0, 20):
        anew = counted(100, 10, 1000, earlier=earlier, at=2.0, limit_per_s=limit)
        assert anew == (1, 100), "it began anew"


@pytest.mark.parametrize(
    ("seconds", "copied", "data"),
    [
        (2, 40, 40),  # as much as the limit lets through: all of it is data
        (2, 1000, 100),  # it is through
        (2, 960, 60),  # what is left of the disk may all be data
        (1, 600, 30),  # more than that went over holes
    ],
)
def test_under_a_limit_only_what_it_has_let_through_is_data(
    monkeypatch: pytest.MonkeyPatch, seconds: int, copied: int, data: int
) -> None:
    monkeypatch.setattr(mirrors, "LATE_BYTES", 0)
    earlier = mirrors.Passed(at=1.0, counted_bytes=10, data_bytes=10)
    found = counted(100, copied, 1000, earlier=earlier, limit_per_s=20, at=1.0 + seconds)
    assert found == (data if seconds > 1 or copied < 50 else 30, 100)


def test_what_a_limited_mirror_counts_late_and_all_at_once_is_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "LATE_BYTES", 0)
    seen, told = mirrors.Passed(at=1.0), []
    for at, copied in ((2.0, 0), (3.0, 0), (4.0, 60), (5.0, 60), (6.0, 900)):
        data, _ = counted(100, copied, 1000, earlier=seen, limit_per_s=20, at=at)
        seen = seen.then(at, copied, data, 20)
        told.append(data)
    assert told == [0, 0, 60, 60, 100]
    assert mirrors.Passed(at=1.0).then(10**9, 0, 0, 20).spare_bytes == mirrors.BURST_BYTES, "one that stood still"
