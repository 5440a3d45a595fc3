"""I/O limits of real QEMUs: read, set elsewhere, and out of the way of a mirror."""

import asyncio
import json
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.job_folder import SlowedWrites
from tests.helpers import MIB
from tests.qmp_guest import QEMU, Start, guests, image
from workers.qemu import block, drives, limits
from workers.qemu.disks import disk_checks, source_disks
from workers.qemu.monitor import Monitor, connect

pytestmark = pytest.mark.guests


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


def line(folder: Path, *more: str) -> list[str]:
    """A throttle node with a group under one disk, as Proxmox 9 has it; limits of a drive; and a disk with none."""
    folder.mkdir()
    for name in "abc":
        image(folder / name, "qcow2", "64M")
    node = {"driver": "qcow2", "node-name": "format", "file": {"driver": "file", "filename": f"{folder}/a"}}
    group = {"qom-type": "throttle-group", "id": "group", "limits": {"bps-total": MIB, "bps-total-max": 2 * MIB}}
    argv = [QEMU, "-display", "none", "-M", "q35", "-m", "64", "-qmp", f"unix:{folder}/q,server=on,wait=off"]
    argv += ["-qmp", f"unix:{folder}/ours,server=on,wait=off", "-object", json.dumps(group)]
    argv += [
        "-blockdev",
        json.dumps({"driver": "throttle", "node-name": "top", "throttle-group": "group", "file": node}),
    ]
    argv += ["-device", "virtio-blk-pci,drive=top,id=disk0"]
    argv += ["-drive", f"file={folder}/b,if=virtio,format=qcow2,throttling.iops-total=300,copy-on-read=on"]
    return [*argv, "-drive", f"file={folder}/c,if=virtio,format=qcow2", *more]


def told(folder: Path, what: Callable[[Monitor], Awaitable[Any]]) -> Any:
    async def ask() -> Any:
        async with connect(folder / "ours") as monitor:
            return await what(monitor)

    return asyncio.run(ask())


def test_limits_as_they_are_now_are_those_of_the_destination(tmp_path: Path, start: Start) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    source, _ = start([*line(a), "-S"], a / "q"), start(line(b, "-S", "-incoming", "defer"), b / "q")
    source("qom-set", path="/objects/group", property="limits", value={"bps-total": 2 * MIB, "iops-read": 70})
    told(a, lambda monitor: monitor.execute("block_set_io_throttle", device="virtio0", **limits.NO_LIMITS))
    fast: dict[str, Any] = {
        **limits.NO_LIMITS,
        "bps_wr": MIB,
        "bps_wr_max": 2 * MIB,
        "bps_wr_max_length": 3,
        "group": "mine",
    }
    told(a, lambda monitor: monitor.execute("block_set_io_throttle", device="virtio1", **fast))
    now = told(a, limits.read)
    assert now != told(b, limits.read)
    told(b, lambda monitor: limits.apply(monitor, now))
    assert told(b, limits.read) == now
    assert now["groups"]["group"]["bps-total"] == 2 * MIB
    assert now["drives"] == {
        "/machine/peripheral/disk0/virtio-backend": limits.NO_LIMITS,
        "virtio0": limits.NO_LIMITS,
        "virtio1": fast,
    }


def test_a_mirror_is_not_slowed_by_the_limits_of_its_guest_which_stay_as_they_are(tmp_path: Path, start: Start) -> None:
    a = tmp_path / "a"
    argv = [*line(a), "-S"]
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 32M", str(a / "a")], check=True)
    guest = start(argv, a / "q")
    assert disk_checks(guest.block()) == []
    disk = next(disk for disk in source_disks(guest.block()) if disk.path == f"{a}/a")
    assert (disk.device, disk.node, disk.format) == ("top", "format", "qcow2")
    image(tmp_path / "copy", "qcow2", "64M")
    guest("blockdev-add", driver="qcow2", node_name="m0", file={"driver": "file", "filename": str(tmp_path / "copy")})
    before = told(a, limits.read)

    async def copy(monitor: Monitor) -> float:
        for _ in range(2):
            await limits.step_aside(monitor)
            assert await limits.read(monitor) == before
        drives = {
            entry["qdev"]: entry["inserted"] for entry in await monitor.query("query-block") if "inserted" in entry
        }
        limited = drives["/machine/peripheral/disk0/virtio-backend"]
        assert (limited["bps"], limited["bps_max"], limited["group"]) == (MIB, 2 * MIB, "drover-group")
        begun = time.monotonic()
        await block.start_mirrors(monitor, {"m0": "top"})
        await block.set_speeds(monitor, {"m0": 0})
        async with asyncio.timeout(30):
            while not (await block.mirrors(monitor, ["m0"]))["m0"].ready:
                await asyncio.sleep(0.05)
        took = time.monotonic() - begun
        await block.end_mirrors(monitor, ["m0"], 10, lambda: None)
        await monitor.execute("blockdev-del", node_name="m0")
        await limits.step_back(monitor)
        assert await limits.read(monitor) == before
        return took

    assert told(a, copy) < 16  # at 1 MiB/s: 30
    assert guest("qom-get", path="/objects/group", property="limits")["bps-total"] == MIB
    guest.close()
    subprocess.run(["qemu-img", "compare", "-q", str(a / "a"), str(tmp_path / "copy")], check=True)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, {"bps_wr": MIB}),
        ({"bps_wr": 10 * MIB, "bps_wr_max": 20 * MIB, "bps_wr_max_length": 3}, {"bps_wr": MIB}),
        ({"bps_wr": 1000, "iops": 7}, {"bps_wr": 1000, "iops": 7}),
        (
            {"bps": 4 * MIB, "bps_max": 5 * MIB, "bps_max_length": 2},
            {"bps_wr": MIB, "bps_rd": 4 * MIB, "bps_rd_max": 5 * MIB, "bps_rd_max_length": 2},
        ),
    ],
)
def test_writes_alone_are_slowed_and_never_quickened(before: dict[str, Any], expected: dict[str, Any]) -> None:
    made = limits.slower({**limits.NO_LIMITS, **before}, MIB)
    assert {name: value for name, value in made.items() if value} == expected


def test_drives_are_slowed_again_and_again_and_get_back_what_is_their_own(tmp_path: Path, start: Start) -> None:
    a = tmp_path / "a"
    start([*line(a), "-S"], a / "q")
    disks = ["/machine/peripheral/disk0/virtio-backend", "virtio0", "virtio1"]
    told(a, limits.step_aside)
    before = told(a, limits.read)

    async def slow(monitor: Monitor) -> Any:
        there = {entry["qdev"] for entry in await drives.present(monitor)}
        slowed: Any = {}
        for rate in (300_000, 200_000):
            slowed = await limits.slow_writes(monitor, there, rate, slowed)
            await limits.set_slowed(monitor, slowed)
        return slowed, [entry["inserted"] for entry in await drives.present(monitor)]

    slowed, now = told(a, slow)
    assert [drive["bps_wr"] for drive in now] == [200_000] * 3
    [throttled] = [drive for drive in now if drive.get("group") == "drover-group"]
    assert (throttled["bps"], throttled["bps_rd"], throttled["bps_rd_max"]) == (0, MIB, 2 * MIB)
    assert set(slowed) == set(disks)
    assert told(a, lambda monitor: limits.read(monitor, slowed)) == before, "what the destination gets"
    told(
        a, lambda monitor: monitor.execute("block_set_io_throttle", device="virtio1", **limits.NO_LIMITS | {"iops": 9})
    )
    record = SlowedWrites.read(json.loads(json.dumps(SlowedWrites(per_s=MIB, drives=slowed).json_object())))
    for _ in range(2):
        told(a, lambda monitor: limits.give_back(monitor, record.drives))
    now = told(a, limits.read)
    assert now["groups"] == before["groups"]
    assert now["drives"]["virtio0"] == before["drives"]["virtio0"]
    assert now["drives"]["virtio1"]["iops"] == 9, "somebody else has set that meanwhile"
    told(a, limits.step_back)
    assert told(a, limits.read)["groups"]["group"]["bps-total"] == MIB
