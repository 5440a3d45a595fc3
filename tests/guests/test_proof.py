"""Both sides of a copy are compared: the images of a QEMU that may go on writing, and those that it was copied from."""

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from drover.errors import Fatal
from models.documents import DiskProof, Range
from tests import factories
from tests.helpers import MIB, until
from tests.qmp_guest import QEMU, Guest, guests, image
from workers.disks.pace import RateLimiter, Recording
from workers.images import records
from workers.process.processes import process
from workers.proof import answering, reading
from workers.proof.answering import Parameters
from workers.proof.comparing import Comparison, Peer, joined
from workers.qemu import nbd, written
from workers.qemu.disks import source_disks
from workers.qemu.monitor import connect
from workers.qemu.nbd import ALLOCATION, Export
from workers.step import Context
from workers.streams import local

SIZE_MIB = 48
PIECE = 64 << 10
OURS = written.name(7, "nonce")
NODES = {0: "d0", 1: "d1"}


@dataclass
class Pair:
    """A QEMU with a raw and a qcow2 disk, and where the images that these were copied from are offered."""

    folder: Path
    guest: Guest
    originals: Path
    size_mib: int = SIZE_MIB

    def write(self, disk: int, what: str) -> None:
        """As the guest would."""
        said = self.guest("human-monitor-command", command_line=f'qemu-io -d disk{disk} "{what}"')
        assert "error" not in str(said).lower(), said

    def damage(self, disk: int, offset: int, pattern: int = 0xEE, length: int = 1) -> None:
        """Behind the guest's back."""
        path = self.folder / f"disk{disk}"
        if disk == 0:
            with path.open("r+b") as raw:
                raw.seek(offset)
                raw.write(bytes([pattern]) * length)
        else:
            command = f"write -q -P {pattern} {offset} {length}"
            subprocess.run(["qemu-io", "--image-opts", *_unlocked(path), "-c", command], check=True)

    def compared(
        self, disk: int, meanwhile: Callable[[], None] = lambda: None, nodes: Mapping[int, str] = NODES
    ) -> DiskProof:
        """The outcome. `meanwhile` is done before it is asked what the guest has written."""
        return asyncio.run(_compared(self, disk, meanwhile, nodes))

    def replug(self, disk: int) -> None:
        """Its place among the disks is another one then."""
        self.guest("device_del", id=f"disk{disk}")
        until("it is unplugged", lambda: f"disk{disk}" not in str(self.guest("query-block")))
        self.guest("device_add", driver="scsi-hd", id=f"disk{disk}", drive=f"d{disk}")


def _unlocked(path: Path) -> list[str]:
    return [f"driver=qcow2,file.driver=file,file.filename={path},file.locking=off"]


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    size_mib = getattr(request, "param", SIZE_MIB)
    line = [QEMU, "-display", "none", "-M", "q35", "-S", "-device", "virtio-scsi-pci"]
    line += [word for name in ("q", "q2") for word in ("-qmp", f"unix:{tmp_path}/{name},server=on,wait=off")]
    daemon = ["qemu-storage-daemon", "--nbd-server", f"addr.type=unix,addr.path={tmp_path}/originals"]
    for index, fmt in enumerate(("raw", "qcow2")):
        path = image(tmp_path / f"original{index}", fmt, f"{size_mib}M")
        commands = ["-c", "write -q -P 5 1M 3M", "-c", "write -q -P 6 40M 1M"]
        subprocess.run(["qemu-io", "-f", fmt, *commands, str(path)], check=True)
        subprocess.run(["cp", "--sparse=always", path, tmp_path / f"disk{index}"], check=True)
        line += ["-blockdev", f"driver={fmt},node-name=d{index},file.driver=file,file.filename={tmp_path}/disk{index}"]
        line += ["-device", f"scsi-hd,drive=d{index},id=disk{index}"]
        node = {"driver": fmt, "node-name": f"o{index}", "read-only": True}
        daemon += ["--blockdev", json.dumps(node | {"file": {"driver": "file", "filename": str(path)}})]
        daemon += ["--export", f"type=nbd,id=o{index},node-name=o{index},name=o{index}"]
    process = subprocess.Popen(daemon)
    try:
        with guests() as start:
            guest = start(line, tmp_path / "q")
            until("the originals are offered", (tmp_path / "originals").exists)
            asyncio.run(_record(tmp_path))
            yield Pair(tmp_path, guest, tmp_path / "originals", size_mib)
    finally:
        process.kill()
        process.wait()


async def _record(folder: Path) -> None:
    async with connect(folder / "q2") as monitor:
        await written.record(monitor, OURS)


async def _compared(pair: Pair, disk: int, meanwhile: Callable[[], None], nodes: Mapping[int, str]) -> DiskProof:
    stream = pair.folder / "stream"
    async with AsyncExitStack() as stack:
        with local.listen(stream) as listening:
            told = Parameters(
                listening=listening.detach(),
                qmp=str(pair.folder / "q2"),
                bitmap=OURS,
                nodes=nodes,
                socket=str(pair.folder / "own"),
                mine=str(pair.folder / "mine"),
            )
        serving = asyncio.create_task(answering.serve(told))
        stack.callback(serving.cancel)
        reader, writer = await asyncio.open_unix_connection(stream)
        stack.callback(writer.close)
        ours = await stack.enter_async_context(nbd.connect(pair.originals, f"o{disk}", [ALLOCATION]))

        async def once(_: DiskProof) -> None:
            meanwhile()

        compared = await Comparison(
            index=disk,
            size_bytes=pair.size_mib * MIB,
            ours=ours,
            theirs=Peer(reader=reader, writer=writer),
            limiter=RateLimiter(),
            told=once,
        ).run()
        writer.write_eof()
        async with asyncio.timeout(20):
            assert await reader.read() == b""  # all is taken away
        assert not (pair.folder / "mine").exists()
        return compared


@pytest.mark.guests
@pytest.mark.parametrize("disk", [0, 1], ids=["raw", "qcow2"])
def test_equal_images_are_equal_to_the_last_byte_and_nothing_is_left_in_qemu(pair: Pair, disk: int) -> None:
    pair.write(disk, "write -z 20M 1M")  # what was a hole still reads as zeroes
    found = pair.compared(disk)
    assert (found.bytes_compared, found.bytes_equal) == (SIZE_MIB * MIB, SIZE_MIB * MIB)
    assert (found.bytes_left_out, found.bytes_different, found.different) == (0, 0, ())
    assert pair.guest("query-block-exports") == []
    bitmaps = {b["name"] for n in pair.guest.block().named_block_nodes for b in n.get("dirty-bitmaps", ())}
    assert bitmaps == {OURS}


@pytest.mark.guests
@pytest.mark.parametrize("pair", [1 << 20], indirect=True)
@pytest.mark.parametrize(("disk", "place"), [(0, 1 << 39), (1, 2 * MIB)], ids=["raw", "qcow2"])
def test_comparing_nothing_costs_nothing_and_what_is_in_it_is_found(
    pair: Pair, disk: int, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, ask = Counter[int](), Export._request

    def counted(export: Export, command: int, *more: Any) -> AsyncIterator[tuple[int, bytes]]:
        requests[command] += 1
        return ask(export, command, *more)

    monkeypatch.setattr(Export, "_request", counted)
    pair.damage(disk, place)  # a qcow2 has data there: QEMU looks for new clusters of its own alone
    found = pair.compared(disk)
    assert found.different == (Range(offset=place, length=4096),)
    assert found.bytes_equal == (1 << 40) - 4096
    assert sum(requests.values()) < 3 * 2 * (1 << 10), requests  # of a GiB each, by both


@pytest.mark.guests
def test_a_flipped_byte_is_found_and_what_the_guest_wrote_is_left_out(pair: Pair) -> None:
    pair.write(0, "write -P 9 2M 8k")
    pair.write(0, "write -z 40M 64k")
    pair.damage(0, 3 * MIB + 4097)
    pair.damage(0, 30 * MIB)  # in what was a hole
    found = pair.compared(0)
    assert found.different == (Range(offset=3 * MIB + 4096, length=4096), Range(offset=30 * MIB, length=4096))
    assert (found.bytes_different, found.bytes_left_out) == (8192, 8192 + 65536)
    assert found.bytes_equal == SIZE_MIB * MIB - 16384 - 65536


@pytest.mark.guests
def test_data_that_became_a_hole_is_found(pair: Pair) -> None:
    pair.damage(0, 40 * MIB + 65536, pattern=0, length=65536)
    assert pair.compared(0).different == (Range(offset=40 * MIB + 65536, length=65536),)


@pytest.mark.guests
def test_what_the_guest_writes_while_its_disk_is_compared_is_no_difference(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recording, "due", lambda _: True)  # before any segment
    patterns = count(8)
    found = pair.compared(1, meanwhile=lambda: pair.write(1, f"write -P {next(patterns)} 40M 100k"))
    assert (found.bytes_different, found.bytes_left_out) == (0, 100 << 10)


@pytest.mark.guests
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_disk_that_is_plugged_in_anew_is_compared_with_its_own_former_image(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(Recording, "due", lambda _: True)  # before any segment
    pair.write(1, "write -P 9 2M 8k")
    if when == "before":
        pair.replug(0)
        found = pair.compared(1)
    else:
        replugs = iter([pair.replug])
        found = pair.compared(1, meanwhile=lambda: next(replugs, lambda _: None)(0), nodes={})
    assert (found.bytes_different, found.bytes_left_out) == (0, 8192)


@pytest.mark.guests
def test_without_a_record_of_what_the_guest_wrote_there_is_no_proof(pair: Pair) -> None:
    pair.write(0, "write -P 9 2M 8k")
    for node in {n["node-name"] for n in pair.guest.block().named_block_nodes if n.get("dirty-bitmaps")}:
        pair.guest("block-dirty-bitmap-remove", node=node, name=OURS)
    with pytest.raises(Fatal, match="not recorded any more"):
        pair.compared(0)


def test_adjacent_places_are_told_as_one() -> None:
    assert list(joined([(0, 4096), (4096, 4096), (12288, 10)])) == [
        Range(offset=0, length=8192),
        Range(offset=12288, length=10),
    ]
    assert list(joined([])) == []


@pytest.mark.thorough
def test_encrypted_images_and_one_behind_a_link_are_read_although_their_qemu_has_them_locked(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("y")
    secrets = ["-object", "secret,id=s,data=x", "-object", f"secret,id=t,file={tmp_path}/key"]
    argv = [QEMU, "-display", "none", "-M", "q35", "-S", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off", *secrets]
    for name, fmt, prefix, key in (("a", "luks", "", "s"), ("b", "qcow2", "encrypt.", "t")):
        options = f"{prefix}key-secret={key},{prefix}iter-time=10" + (f",{prefix}format=luks" if prefix else "")
        image(tmp_path / name, fmt, "1M", *(word.replace("-object", "--object") for word in secrets), "-o", options)
        of_file = f"file.driver=file,file.filename={tmp_path}/{name}"
        argv += ["-drive", f"driver={fmt},{of_file},{prefix}key-secret={key},if=none,id={name}"]
        argv += ["-device", f"virtio-blk-pci,drive={name}"]
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    (tmp_path / "b").symlink_to("elsewhere")
    folder = SimpleNamespace(path=tmp_path / "job", mark=str, log=lambda _: tmp_path / "log")
    folder.path.mkdir()
    with guests() as start:
        guest = start(argv, tmp_path / "q")
        for command in (f'qemu-io {name} "{what}"' for name in "ab" for what in ("write -P 7 64k 64k", "flush")):
            guest("human-monitor-command", command_line=command)
        alive = process(guest.process.pid)
        source = SimpleNamespace(disks=source_disks(guest.block()), argv=argv)
        ours = factories.offline(host="one", directory=tmp_path / "drover", guest_root=tmp_path, policy=tmp_path / "no")
        records.retired_folder(ours).mkdir(parents=True)
        common = {"directory": folder, "settings": ours, "job": SimpleNamespace(id=1), "guard": lambda: None}
        job = SimpleNamespace(source=source, source_alive=True, source_process=alive, **common)
        read = asyncio.run(_read(cast("Context", job)))
        assert read == [bytes([7]) * PIECE] * 2
        assert list(folder.path.iterdir()) == []


async def _read(ctx: Context) -> list[bytes]:
    async with reading.images(ctx) as found:
        return [await export.read(PIECE, PIECE) for export in found.values()]
