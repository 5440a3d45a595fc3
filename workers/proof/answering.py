"""The destination's end: a process that answers questions about the images of a running guest.

It outlives the worker and needs neither database nor broker. It can be killed at any instant: the next one, or
`cleanup`, takes away what it left in the guest's QEMU.
"""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from drover.errors import DroverError, Fatal
from workers.files import write_durably
from workers.proof.digests import segment, with_data
from workers.proof.protocol import LONGEST_LINE, Answer, Question
from workers.qemu import nbd, own_export, written
from workers.qemu.monitor import Monitor, connect
from workers.qemu.nbd import ALLOCATION, Export
from workers.qemu.written import Disk
from workers.streams import local

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What the process is told: one JSON file."""

    listening: int
    """Descriptor of the listening Unix socket of the stream that it inherits."""
    qmp: str
    """Of the guest's QEMU."""
    bitmap: str
    """See `workers.qemu.written.name`."""
    nodes: Mapping[int, str]
    """{index of a disk: its node}; empty of a move that an earlier version began."""
    socket: str
    """Where it reads what QEMU offers."""
    mine: str
    """See `own_export.begin`."""

    def save(self, path: Path) -> None:
        """Write it."""
        write_durably(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it."""
        told = json.loads(path.read_text())
        return cls(**told | {"nodes": {int(index): node for index, node in told["nodes"].items()}})


class Answering:
    """What is known about the guest while one source asks."""

    def __init__(self, told: Parameters, nodes: dict[int, str], exports: AsyncExitStack) -> None:
        self.told, self.nodes, self.exports = told, nodes, exports
        self.content: dict[int, Export] = {}
        self.frozen: dict[int, AsyncExitStack] = {}
        self.written: dict[int, Export] = {}

    async def answer(self, asked: Question) -> Answer:
        """One question."""
        if asked.disk not in self.nodes:
            raise Fatal(f"the guest has no disk {asked.disk} any more")
        match asked.about:
            case "data":
                export = await self._content(asked.disk)
                return Answer(data=tuple(await with_data(export, asked.offset, asked.length)))
            case "digests":
                export = await self._content(asked.disk)
                found = await segment(export, asked.offset, asked.length, asked.block)
                return Answer(digests=found.digests, read_bytes=found.read_bytes)
            case "freeze":
                await self._freeze(asked.disk)
                return Answer()
            case "written":
                export, context = self.written[asked.disk], nbd.bitmap(own_export.frozen(asked.disk))
                extents = await export.extents(context, asked.offset, asked.length)
                return Answer(written=tuple((it.offset, it.length) for it in extents if it.is_dirty))

    async def _content(self, index: int) -> Export:
        if index not in self.content:
            offered = nbd.connect(Path(self.told.socket), own_export.name(index), [ALLOCATION])
            self.content[index] = await self.exports.enter_async_context(offered)
        return self.content[index]

    async def _freeze(self, index: int) -> None:
        if (before := self.frozen.pop(index, None)) is not None:
            await before.aclose()
        async with connect(self.told.qmp) as monitor:
            disk = (await _disks(monitor, self.nodes)).get(index)
            bitmap = None if disk is None else disk.bitmaps.get(self.told.bitmap)
            if disk is None or bitmap is None:
                raise Fatal(
                    "what the guest wrote since its switchover is not recorded any more: its QEMU was restarted, or "
                    "its disks were changed"
                )
            await own_export.freeze(monitor, index, disk.node, [self.told.bitmap], bitmap.granularity)
        opened = self.frozen[index] = AsyncExitStack()
        self.exports.push_async_exit(opened)
        name = own_export.frozen(index)
        offered = nbd.connect(Path(self.told.socket), name, [nbd.bitmap(name)])
        self.written[index] = await opened.enter_async_context(offered)


async def _nodes(monitor: Monitor) -> dict[int, str]:
    return {index: disk.node for index, disk in (await written.disks(monitor)).items()}


async def _disks(monitor: Monitor, nodes: Mapping[int, str]) -> dict[int, Disk]:
    """Those of these disks that the guest has now, wherever among the others they are plugged in."""
    there = {disk.node: disk for disk in (await written.disks(monitor)).values()}
    return {index: there[node] for index, node in nodes.items() if node in there}


@asynccontextmanager
async def offered(told: Parameters) -> AsyncIterator[Answering]:
    """The guest's disks are offered by its QEMU for the time of a `with` block."""
    with local.listen(Path(told.socket)) as listening:
        async with connect(told.qmp) as monitor:
            asked = told.nodes or await _nodes(monitor)
            nodes = {index: disk.node for index, disk in (await _disks(monitor, asked)).items()}
            await own_export.begin(monitor, listening, nodes, Path(told.mine))
    try:
        async with AsyncExitStack() as exports:
            yield Answering(told, nodes, exports)
    finally:
        async with connect(told.qmp) as monitor:
            await own_export.end(monitor, Path(told.mine))


async def _serve(told: Parameters, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with offered(told) as answering:
            while line := await reader.readline():
                writer.write(_line(await answering.answer(Question.read(json.loads(line)))))
                await writer.drain()
    except (DroverError, OSError, ValueError) as error:
        log.warning("a question could not be answered: %s", error)
        writer.write(_line(Answer(error=str(error) or type(error).__name__, final=isinstance(error, Fatal))))
    finally:
        writer.close()


def _line(answer: Answer) -> bytes:
    return json.dumps(answer.json_object()).encode() + b"\n"


async def serve(told: Parameters) -> None:
    """Answer whoever connects, one after the other, until the process is ended."""
    alone = asyncio.Lock()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with alone:
            await _serve(told, reader, writer)

    listening = socket.socket(fileno=told.listening)
    async with await asyncio.start_unix_server(one, sock=listening, limit=LONGEST_LINE) as server:
        await server.serve_forever()
