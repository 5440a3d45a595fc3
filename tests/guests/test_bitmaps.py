"""Dirty bitmaps of real QEMUs go along with the RAM."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import MIB, until
from tests.qmp_guest import QEMU, Guest, Start, guests, image
from workers.qemu import bitmaps, migration
from workers.qemu.monitor import Monitor, connect

pytestmark = pytest.mark.guests


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


def line(folder: Path, *more: str) -> list[str]:
    """A filter over a disk whose node has a made-up name, and a raw disk."""
    image(folder / "a", "qcow2", "64M")
    image(folder / "b", "raw", "8M")
    node = {"driver": "qcow2", "file": {"driver": "file", "filename": f"{folder}/a"}}
    argv = [QEMU, "-display", "none", "-M", "q35", "-m", "64", "-S", "-qmp", f"unix:{folder}/q,server=on,wait=off"]
    argv += ["-qmp", f"unix:{folder}/ours,server=on,wait=off"]
    argv += ["-blockdev", json.dumps({"driver": "copy-on-read", "node-name": "top", "file": node})]
    argv += ["-device", "virtio-blk-pci,drive=top,id=disk0"]
    return [*argv, "-drive", f"file={folder}/b,if=virtio,format=raw", *more]


def shown(guest: Guest) -> dict[str, dict[str, Any]]:
    nodes = guest("query-named-block-nodes", flat=True)
    found = [dict(bitmap) for node in nodes for bitmap in node.get("dirty-bitmaps", ()) if bitmap.get("name")]
    return {bitmap.pop("name"): bitmap for bitmap in found}


def test_bitmaps_arrive_as_they_were_but_for_those_of_a_move(tmp_path: Path, start: Start) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    source, target = start(line(a), a / "q"), start(line(b, "-incoming", "defer"), b / "q")
    qcow2 = next(node["node-name"] for node in source("query-named-block-nodes", flat=True) if node["drv"] == "qcow2")
    long = "of-a-backup-" + "x" * 300
    source("block-dirty-bitmap-add", node=qcow2, name=long, persistent=True, granularity=1 << 16)
    source("block-dirty-bitmap-add", node=qcow2, name="stopped", persistent=True, disabled=True)
    source("block-dirty-bitmap-add", node="top", name="of-the-filter")
    source("block-dirty-bitmap-add", node="virtio0", name="transient")
    source("block-dirty-bitmap-add", node=qcow2, name="drover-written-1-ab")
    source("human-monitor-command", command_line='qemu-io -d disk0/virtio-backend "write 5M 1M"')
    source("human-monitor-command", command_line='qemu-io virtio0 "write 1M 128k"')
    before = shown(source)
    assert (before[long]["count"], before["transient"]["count"]) == (MIB, 128 << 10)
    image(tmp_path / "copy", "raw", "64M")
    source("blockdev-add", driver="raw", node_name="m0", file={"driver": "file", "filename": str(tmp_path / "copy")})
    source("blockdev-mirror", job_id="m0", device="top", target="m0", sync="full")  # its filter is on top
    asyncio.run(_sent(a, b))
    until("the RAM has arrived", lambda: target("query-migrate").get("status") == "completed")
    target("cont")
    assert shown(target) == {name: of for name, of in before.items() if not name.startswith(bitmaps.OURS)}
    target("quit")
    target.process.wait(20)
    told = subprocess.run(["qemu-img", "info", "--output=json", str(b / "a")], capture_output=True, check=True).stdout
    kept = json.loads(told)["format-specific"]["data"]["bitmaps"]
    assert {bitmap["name"]: bitmap["flags"] for bitmap in kept} == {long: ["auto"], "stopped": []}


async def _sent(a: Path, b: Path) -> None:
    async with connect(a / "ours") as source, connect(b / "ours") as target:
        carried = await bitmaps.read(source)
        assert await bitmaps.read(target) == {}
        await migration.prepare_incoming(target, bitmaps.CAPABILITY)
        await bitmaps.map_to_each_other(target, carried)
        await migration.set_capabilities(source, "events", "return-path", bitmaps.CAPABILITY)
        await bitmaps.map_to_each_other(source, carried)
        await _send(source, target, b / "ram")


async def _send(source: Monitor, target: Monitor, ram: Path) -> None:
    await target.execute("migrate-incoming", uri=f"unix:{ram}")
    await source.execute("migrate", uri=f"unix:{ram}")
