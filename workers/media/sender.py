"""The source's end of the stream `files`: sends what is missing at the destination, one file after the other."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drover.errors import Fatal, Transient
from models.plan import PlannedFile
from workers import files
from workers.disks.pace import RateLimiter
from workers.media import digests, protocol
from workers.media.protocol import BUSY, FROM, LONGEST_LINE, PIECE, PIECE_BYTES, THERE, WAIT
from workers.switchover.channel import PeerLost, call


class Gone(Transient):
    """Nobody takes files at the destination."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How files are sent, and who is told how far that is."""

    socket: Path
    """Where this host's end of the streams listens."""
    rate: Callable[[], Awaitable[int]]
    """Bytes per second that may be sent now; 0: no limit."""
    copied: Callable[[int], Awaitable[None]]
    """Told of each piece: so many bytes of the file are there now."""
    busy: Callable[[], Awaitable[None]]
    """Told once when another job is bringing the same file."""
    secret: Callable[[str], bytes]
    """What stands on the guest's command line as the secret of this id."""


async def send(place: int, file: PlannedFile, way: Way) -> None:
    """Have this file be at the destination.

    Raises:
        Gone: there is no way, or it broke; what was written stays for the next time.
        Fatal: the destination does not take it; the text says why.
    """
    try:
        unix = await call(str(way.socket))
    except PeerLost as error:
        raise Gone(str(error)) from error
    reader, writer = await asyncio.open_unix_connection(sock=unix, limit=LONGEST_LINE)
    try:
        writer.write(f"{place}\n".encode())
        answer = await _line(reader)
        if answer == BUSY:
            await way.busy()
            answer = await _line(reader)
        word, _, offset = answer.partition(" ")
        if word == FROM:
            await _content(file, int(offset), writer, way)
            answer = await _line(reader)
        if answer != THERE:
            raise Fatal(f"{file.destination_path}: {answer}")
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Gone(f"the copy of {file.source_path} was cut off: {_why(error)}") from error
    finally:
        writer.close()


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"the destination said nothing for {protocol.SILENCE_S:g} s"
    return str(error) or type(error).__name__


async def _line(reader: asyncio.StreamReader) -> str:
    while True:
        async with asyncio.timeout(protocol.SILENCE_S):
            line = (await reader.readuntil(b"\n")).decode(errors="replace").strip()
        if line != WAIT:
            return line


async def _content(file: PlannedFile, begin: int, writer: asyncio.StreamWriter, way: Way) -> None:
    with _opened(file, way) as (descriptor, there):
        if there.st_size != file.size_bytes:
            raise Fatal(f"{file.source_path} has changed since the move was planned: move the guest again")
        limiter = RateLimiter()
        for offset, length in _pieces(descriptor, begin, there.st_size):
            piece = await asyncio.to_thread(os.pread, descriptor, length, offset)
            writer.write(PIECE.pack(offset, len(piece)) + piece)
            async with asyncio.timeout(protocol.SILENCE_S):
                await writer.drain()
            await way.copied(offset + len(piece))
            limiter.bytes_per_s = await way.rate()
            await limiter.keep(len(piece))
    writer.write(PIECE.pack(0, 0))
    await writer.drain()


@contextmanager
def _opened(file: PlannedFile, way: Way) -> Iterator[tuple[int, os.stat_result]]:
    if file.secret is None:
        with digests.opened(files.followed(Path(file.source_path))) as found:
            yield found
        return
    with os.fdopen(os.memfd_create("secret"), "r+b", buffering=0) as memory:
        memory.write(way.secret(file.secret))
        yield memory.fileno(), os.fstat(memory.fileno())


def _pieces(descriptor: int, begin: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is not a hole."""
    while begin < size:
        try:
            data = os.lseek(descriptor, begin, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(descriptor, data, os.SEEK_HOLE)
        for offset in range(data, end, PIECE_BYTES):
            yield offset, min(PIECE_BYTES, end - offset)
        begin = end
