"""The source's end: asks for the destination's digests, and compares them with those of its own images."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby

from drover.errors import Fatal, Transient
from models.documents import DiskProof, Range
from workers.disks.pace import RateLimiter, Recording
from workers.proof import protocol
from workers.proof.digests import segment, with_data
from workers.proof.protocol import BLOCK_BYTES, LONGEST_LINE, PIECE_BYTES, SEGMENT_BYTES, WINDOW_BYTES, Answer, Question
from workers.qemu.nbd import Export
from workers.switchover.channel import PeerLost, call

NAMED = 1000
"""Of the places that differ so many are named."""

Told = Callable[[DiskProof], Awaitable[None]]
"""Told once a second how far a disk is."""
Pieces = list[tuple[int, int]]
"""(offset, length), in their order."""


@dataclass(kw_only=True)
class Peer:
    """The process at the destination that answers."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    @asynccontextmanager
    async def reached(cls, path: str) -> AsyncIterator["Peer"]:
        """For the time of a `with` block, by this host's end of the job's streams.

        Raises:
            Transient: nobody is there, or there is no way.
        """
        try:
            unix = await call(path)
        except PeerLost as error:
            raise Transient(str(error)) from error
        reader, writer = await asyncio.open_unix_connection(sock=unix, limit=LONGEST_LINE)
        try:
            yield cls(reader=reader, writer=writer)
        finally:
            writer.close()

    async def ask(self, asked: Question) -> Answer:
        """Put a question.

        Raises:
            Transient: no answer, or one that may be another one later.
            Fatal: there will be no answer.
        """
        try:
            async with asyncio.timeout(protocol.PATIENCE_S):
                self.writer.write(json.dumps(asked.json_object()).encode() + b"\n")
                await self.writer.drain()
                answer = Answer.read(json.loads(await self.reader.readuntil(b"\n")))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise Transient(f"the destination gave no answer: {str(error) or type(error).__name__}") from error
        if answer.error is not None:
            raise Fatal(answer.error) if answer.final else Transient(answer.error)
        return answer


@dataclass(kw_only=True)
class Comparison:
    """Of one disk."""

    index: int
    size_bytes: int
    ours: Export
    theirs: Peer
    limiter: RateLimiter
    told: Told
    suspects: Pieces = field(default_factory=list)
    """What differed when it was compared."""
    _recording: Recording = field(default_factory=Recording)

    async def run(self) -> DiskProof:
        """From its first byte to its last. Errors as for `Peer.ask`, and `NbdLost`."""
        (least, most), end = WINDOW_BYTES, 0
        window = least
        while end < self.size_bytes:
            begin, end = end, min(end + window, self.size_bytes)
            segments = await self._with_data(begin, end)
            for offset in segments:
                await self._tell(offset)
                for block in await self._differing(offset, min(SEGMENT_BYTES, end - offset), BLOCK_BYTES):
                    self.suspects += await self._differing(*block, PIECE_BYTES)
            window = least if segments else min(2 * window, most)
            await self._tell(end)
        different = await self._not_the_guests(self.suspects)
        if different:  # looked at once more: an alarm must be certain
            again = [piece for each in different for piece in await self._differing(*each, PIECE_BYTES)]
            different = await self._not_the_guests(again)
        return self._outcome(different)

    async def _with_data(self, begin: int, end: int) -> list[int]:
        """Where the segments of a range begin that are more than a hole at either side."""
        asked = Question(about="data", disk=self.index, offset=begin, length=end - begin)
        mine, answer = await asyncio.gather(with_data(self.ours, begin, end - begin), self.theirs.ask(asked))
        there = mine.union(answer.data)
        return [offset for offset in range(begin, end, SEGMENT_BYTES) if offset in there]

    async def _differing(self, offset: int, length: int, block: int) -> Pieces:
        """The blocks of a range whose digests differ."""
        asked = Question(about="digests", disk=self.index, offset=offset, length=length, block=block)
        mine, answer = await asyncio.gather(segment(self.ours, offset, length, block), self.theirs.ask(asked))
        if len(answer.digests) != len(mine.digests):
            raise Fatal("the destination answered something else than it was asked")
        await self.limiter.keep(max(mine.read_bytes, answer.read_bytes))
        both = enumerate(zip(mine.digests, answer.digests, strict=True))
        places = [offset + number * block for number, (here, there) in both if here != there]
        return [(place, min(block, offset + length - place)) for place in places]

    async def _not_the_guests(self, pieces: Pieces) -> Pieces:
        """Those that the guest did not write since its switchover, as is known after they were compared."""
        if not pieces:
            return []
        await self.theirs.ask(Question(about="freeze", disk=self.index))
        left = Pieces()
        for window, those in groupby(pieces, lambda piece: piece[0] // SEGMENT_BYTES):
            begin = window * SEGMENT_BYTES
            length = min(SEGMENT_BYTES, self.size_bytes - begin)
            asked = Question(about="written", disk=self.index, offset=begin, length=length)
            written = (await self.theirs.ask(asked)).written
            left += [piece for piece in those if not any(_overlap(piece, each) for each in written)]
        return left

    async def _tell(self, compared: int) -> None:
        if self._recording.due():
            await self.told(DiskProof(index=self.index, bytes_total=self.size_bytes, bytes_compared=compared))

    def _outcome(self, different: Pieces) -> DiskProof:
        suspected, wrong = (sum(length for _, length in pieces) for pieces in (self.suspects, different))
        return DiskProof(
            index=self.index,
            bytes_total=self.size_bytes,
            bytes_compared=self.size_bytes,
            bytes_equal=self.size_bytes - suspected,
            bytes_left_out=suspected - wrong,
            bytes_different=wrong,
            different=tuple(joined(different))[:NAMED],
        )


def _overlap(piece: tuple[int, int], other: Iterable[int]) -> bool:
    (begin, length), (start, size) = piece, other
    return begin < start + size and start < begin + length


def joined(pieces: Pieces) -> Iterator[Range]:
    """Adjacent pieces as one."""
    found: Range | None = None
    for offset, length in pieces:
        if found is not None and found.offset + found.length == offset:
            found = Range(offset=found.offset, length=found.length + length)
            continue
        if found is not None:
            yield found
        found = Range(offset=offset, length=length)
    if found is not None:
        yield found
