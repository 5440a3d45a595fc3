"""NBD client for what QEMU exports at a Unix socket of this host: extents, reading and writing, one request at a time.

Only what the protocol's page calls fixed newstyle with structured replies: QEMU has both since 2.12. libnbd has no
package on PyPI, and is not there for every Python.
"""

import asyncio
import errno
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from drover.errors import Transient

ALLOCATION = "base:allocation"
"""The context whose extents tell data from holes and zeroes."""
TIMEOUT_S = 60.0
"""For one request: slow storage answers later than others."""

_GREETING = struct.Struct("!8s8sH")
_OPTION = struct.Struct("!8sII")
_OPTION_REPLY = struct.Struct("!QIII")
_REQUEST = struct.Struct("!IHHQQI")
_SIMPLE = struct.Struct("!IQ")
_CHUNK = struct.Struct("!HHQI")
_MAGIC, _OPTION_MAGIC, _OPTION_REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
_REQUEST_MAGIC, _SIMPLE_MAGIC, _CHUNK_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
_CLIENT_FLAGS = 0b11  # fixed newstyle, without padding
_GO, _STRUCTURED, _META_CONTEXT = 7, 8, 10
_ACK, _INFO, _CONTEXT = 1, 3, 4
_READ, _WRITE, _DISCONNECT, _FLUSH, _ZEROES, _STATUS = 0, 1, 2, 3, 6, 7
_DONE, _DATA, _HOLE, _EXTENTS, _ERROR = 1, 1, 2, 5, 0x8000
_LARGEST_PAYLOAD = 64 << 20


class NbdLost(Transient):
    """The server hung up, gave no answer, or refused the request."""


class NoRoom(NbdLost):
    """The file system that the server writes to is full. The connection is as before."""


@dataclass(frozen=True)
class Extent:
    """A range of an export."""

    offset: int
    length: int
    flags: int
    """As the context means them."""

    @property
    def is_zero(self) -> bool:
        """Of `ALLOCATION`: it reads as zeroes."""
        return bool(self.flags & 0b10)

    @property
    def is_dirty(self) -> bool:
        """Of a dirty bitmap: it was written to."""
        return bool(self.flags & 0b1)

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.length


def bitmap(name: str) -> str:
    """The context of a dirty bitmap that QEMU exports."""
    return f"qemu:dirty-bitmap:{name}"


@dataclass(kw_only=True)
class Export:
    """A connection to one export, made by `connect`. All of its methods raise `NbdLost`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    size_bytes: int = 0
    contexts: dict[str, int] = field(default_factory=dict)
    """{context: its number on this connection}."""
    _cookie: int = 0

    async def read(self, offset: int, length: int) -> bytes:
        """So many bytes from there on; holes are zeroes. A few MiB at once."""
        found = bytearray(length)
        async for kind, payload in self._request(_READ, offset, length):
            if kind == _DATA:
                begin = _number(payload) - offset
                found[begin : begin + len(payload) - 8] = payload[8:]
        return bytes(found)

    async def extents(self, context: str, offset: int, length: int) -> list[Extent]:
        """What this context says of a range, all of it and no more."""
        found, end = list[Extent](), offset + length
        while offset < end:
            told = [
                payload
                async for kind, payload in self._request(_STATUS, offset, min(end - offset, 1 << 30))
                if kind == _EXTENTS and _number(payload, 4) == self.contexts[context]
            ]
            for size, flags in (pair for payload in told for pair in _pairs(payload[4:])):
                found.append(Extent(offset, min(size, end - offset), flags))
                offset = found[-1].end
            if not told:
                raise NbdLost(f"the NBD server says nothing about {context}")
        return [extent for extent in found if extent.length]

    async def write(self, offset: int, data: bytes) -> None:
        """Write these bytes there."""
        await self._done(_WRITE, offset, len(data), data)

    async def zeroes(self, offset: int, length: int) -> None:
        """Have this range read as zeroes, without room where the image can do that."""
        await self._done(_ZEROES, offset, length)

    async def flush(self) -> None:
        """Have all that was written be on the disk."""
        await self._done(_FLUSH, 0, 0)

    async def _done(self, command: int, offset: int, length: int, data: bytes = b"") -> None:
        async for _ in self._request(command, offset, length, data):
            pass

    async def _request(
        self, command: int, offset: int, length: int, data: bytes = b""
    ) -> AsyncIterator[tuple[int, bytes]]:
        """The parts of the answer: (type, payload)."""
        self._cookie += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self.writer.write(_REQUEST.pack(_REQUEST_MAGIC, 0, command, self._cookie, offset, length) + data)
                await self.writer.drain()
                last = False
                while not last:
                    last, kind, payload = await self._part()
                    yield kind, payload
        except (OSError, asyncio.IncompleteReadError) as error:  # a time-out is one, too
            raise NbdLost(f"the NBD server gave no answer: {str(error) or 'timed out'}") from error

    async def _part(self) -> tuple[bool, int, bytes]:
        magic = _number(await self.reader.readexactly(4), 4)
        if magic == _SIMPLE_MAGIC:
            code, cookie = _SIMPLE.unpack(await self.reader.readexactly(_SIMPLE.size))
            flags, kind, payload = _DONE, 0, b""
        elif magic == _CHUNK_MAGIC:
            flags, kind, cookie, size = _CHUNK.unpack(await self.reader.readexactly(_CHUNK.size))
            payload = await self._payload(size)
            code = _number(payload, 4) if kind & _ERROR else 0
        else:
            raise NbdLost("what answers is no NBD server")
        if code == errno.ENOSPC and cookie == self._cookie:
            raise NoRoom("the NBD server has no room left")
        if code or cookie != self._cookie:
            raise NbdLost(f"the NBD server reports error {code}")
        return bool(flags & _DONE), kind, payload

    async def _payload(self, size: int) -> bytes:
        if size > _LARGEST_PAYLOAD:
            raise NbdLost("the NBD server's answer is larger than what was asked for")
        return await self.reader.readexactly(size)

    async def negotiate(self, name: str, contexts: Sequence[str]) -> None:
        """Agree with the server on the export. Done by `connect`."""
        magic, option_magic, _ = _GREETING.unpack(await self.reader.readexactly(_GREETING.size))
        if (magic, option_magic) != (_MAGIC, _OPTION_MAGIC):
            raise NbdLost("what answers is no NBD server")
        self.writer.write(struct.pack("!I", _CLIENT_FLAGS))
        await self._option(_STRUCTURED, b"")
        if contexts:
            wanted = _text(name) + struct.pack("!I", len(contexts)) + b"".join(map(_text, contexts))
            for kind, payload in await self._option(_META_CONTEXT, wanted):
                if kind == _CONTEXT:
                    self.contexts[payload[4:].decode()] = _number(payload, 4)
            if missing := set(contexts) - self.contexts.keys():
                raise NbdLost(f"the NBD server does not offer {', '.join(sorted(missing))}")
        for kind, payload in await self._option(_GO, _text(name) + b"\0\0"):
            if kind == _INFO and _number(payload, 2) == 0:
                self.size_bytes = _number(payload[2:])

    async def _option(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        self.writer.write(_OPTION.pack(_OPTION_MAGIC, option, len(data)) + data)
        told = list[tuple[int, bytes]]()
        while True:
            magic, about, kind, size = _OPTION_REPLY.unpack(await self.reader.readexactly(_OPTION_REPLY.size))
            payload = await self._payload(size)
            if magic != _OPTION_REPLY_MAGIC or about != option or kind >> 31:
                raise NbdLost(f"the NBD server refuses: {payload.decode(errors='replace') or f'option {option}'}")
            if kind == _ACK:
                return told
            told.append((kind, payload))


@asynccontextmanager
async def connect(path: Path, export: str, contexts: Sequence[str] = ()) -> AsyncIterator[Export]:
    """An export for the time of a `with` block, with these contexts of `extents`.

    Raises:
        NbdLost: nobody listens there, or there is no such export or context.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
    except OSError as error:
        raise NbdLost(f"no NBD server answers at {path}: {str(error) or 'timed out'}") from error
    try:
        made = Export(reader=reader, writer=writer)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await made.negotiate(export, contexts)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise NbdLost(f"the NBD server at {path} gave no answer") from error
        yield made
    finally:
        writer.write(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
        writer.close()


def _number(data: bytes, size: int = 8) -> int:
    return int.from_bytes(data[:size], "big")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("!I", len(encoded)) + encoded


def _pairs(payload: bytes) -> Iterator[tuple[int, int]]:
    yield from struct.iter_unpack("!II", payload)
