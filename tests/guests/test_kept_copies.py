"""What a copy lacks, wherever its mirror is cut off, is in the bitmap that was begun with it: between real QEMUs."""

import asyncio
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.test_mirrors import daemon
from tests.helpers import MIB
from tests.qmp_guest import QEMU, Guest, guests
from workers.disks import kept_copy
from workers.qemu import block, written
from workers.qemu.monitor import connect
from workers.qemu.written import FINEST

SIZE = 32 * MIB
NAME = written.name(7, "nonce")
NODE, MIRROR = "disk", "drover-7-0"


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """A QEMU with a disk full of data, and at the path `nbd` what it is to be copied to."""
    (tmp_path / "source").write_bytes(os.urandom(SIZE))
    (tmp_path / "target").touch()
    os.truncate(tmp_path / "target", SIZE)
    there = ["--nbd-server", f"addr.type=unix,addr.path={tmp_path}/nbd,max-connections=0"]
    there += ["--blockdev", f"file,node-name=there,filename={tmp_path}/target"]
    there += ["--export", "nbd,id=x,node-name=there,name=x,writable=on"]
    line = [QEMU, "-display", "none", "-m", "64", "-accel", "tcg", "-S"]
    line += ["-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off", "-qmp", f"unix:{tmp_path}/qmp2,server=on,wait=off"]
    line += ["-blockdev", f"driver=file,node-name=file,filename={tmp_path}/source"]
    line += ["-blockdev", f"driver=raw,node-name={NODE},file=file", "-device", f"virtio-blk-pci,drive={NODE},id=vb"]
    with daemon(tmp_path, "there", *there), guests() as start:
        yield start(line, tmp_path / "qmp")


class Writer(threading.Thread):
    """Writes pages at random places, as the guest would, with some milliseconds between them."""

    def __init__(self, guest: Guest, chance: random.Random) -> None:
        super().__init__()
        self.guest, self.chance, self.over = guest, chance, threading.Event()

    def run(self) -> None:
        longest = self.chance.choice((0.0, 0.002, 0.02))
        while not self.over.wait(self.chance.uniform(0, longest)):
            page = self.chance.randrange(SIZE // FINEST)
            pattern = self.chance.randrange(256)
            command = f'qemu-io -d vb/virtio-backend "write -P {pattern} {page * FINEST} {FINEST}"'
            self.guest("human-monitor-command", command_line=command)


async def copied_and_cut_off(folder: Path, chance: random.Random) -> int:
    """What the bitmap holds right before the mirror is cut off."""
    async with connect(folder / "qmp2") as monitor:
        disks = await written.disks(monitor)
        await written.forget(monitor, NODE, NAME)
        await written.add(monitor, disks[0], NAME)
        server = {"type": "unix", "path": f"{folder}/nbd"}
        await monitor.execute("blockdev-add", driver="nbd", node_name=MIRROR, server=server, export="x")
        ready = monitor.listen("BLOCK_JOB_READY")
        await block.start_mirrors(monitor, {MIRROR: NODE})
        await block.set_speeds(monitor, {MIRROR: 0})
        async with asyncio.timeout(60):
            await ready.get()
        await asyncio.sleep(chance.uniform(0, 0.3))  # it writes meanwhile
        await kept_copy.narrow(monitor, MIRROR, disks[0], NAME)
        count = (await written.disks(monitor))[0].bitmaps[NAME].count
        await block.drop_mirrors(monitor, [MIRROR])
        return count


def missing(folder: Path) -> set[int]:
    """The pages in which both sides differ."""
    sides = [(folder / name).read_bytes() for name in ("source", "target")]
    pages = range(0, SIZE, FINEST)
    return {page for page in pages if len({side[page : page + FINEST] for side in sides}) > 1}


def recorded(guest: Guest, folder: Path) -> set[int]:
    """The pages that the bitmap names, by qemu-img: it shows what is dirty as what holds no data."""
    guest("nbd-server-start", addr={"type": "unix", "data": {"path": f"{folder}/own"}})
    guest("block-dirty-bitmap-add", node=NODE, name="copy", granularity=FINEST, disabled=True)
    guest("block-dirty-bitmap-merge", node=NODE, target="copy", bitmaps=[NAME])
    guest("block-export-add", type="nbd", id="own", node_name=NODE, name="own", bitmaps=["copy"])
    server = f"driver=nbd,server.type=unix,server.path={folder}/own,export=own,x-dirty-bitmap=qemu:dirty-bitmap:copy"
    told = subprocess.check_output(["qemu-img", "map", "--output=json", "--image-opts", server])
    guest("nbd-server-stop")
    guest("block-dirty-bitmap-remove", node=NODE, name="copy")
    dirty = [entry for entry in json.loads(told) if not entry["data"]]
    return {page for each in dirty for page in range(each["start"], each["start"] + each["length"], FINEST)}


@pytest.mark.guests
def test_whatever_a_copy_lacks_that_was_cut_off_is_recorded_and_not_much_more(
    tmp_path: Path, guest: Guest, round_trips: int
) -> None:
    seed = time.time_ns()
    chance = random.Random(seed)
    for _ in range(3 * round_trips):
        writer = Writer(guest, chance)
        writer.start()
        try:
            asyncio.run(copied_and_cut_off(tmp_path, chance))
        finally:
            writer.over.set()
            writer.join()
        lacks, known = missing(tmp_path), recorded(guest, tmp_path)
        assert lacks <= known, f"{len(lacks - known)} pages would be lost (seed {seed})"


@pytest.mark.guests
def test_of_a_guest_that_rests_now_and_then_nothing_is_recorded_that_is_over_there(
    tmp_path: Path, guest: Guest
) -> None:
    guest("human-monitor-command", command_line='qemu-io -d vb/virtio-backend "write 0 8M"')
    assert asyncio.run(copied_and_cut_off(tmp_path, random.Random(0))) == 0
    assert not missing(tmp_path)
