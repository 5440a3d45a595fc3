"""The direct line between the two switchover processes: questions and answers as JSON.

The streams of the job carry it, see `workers.streams`: both ends have proven themselves before it begins.
"""

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from drover.errors import DroverError
from workers.streams import handshake, local

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

CALL_S = 5.0


class PeerLost(DroverError):
    """The other switchover process is gone, silent, or answered with an error."""


class Channel:
    """Asks and answers at the same time, so that a ping is answered while long work goes on."""

    def __init__(self, connected: socket.socket, handler: Handler | None = None) -> None:
        connected.setblocking(True)
        connection: Connection[Any, Any] = Connection(connected.detach())
        self._connection = connection
        self._handler = handler
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count()
        self._answering: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()
        asyncio.get_running_loop().add_reader(connection.fileno(), self._readable)

    async def ask(self, what: str, timeout_s: float, **data: Any) -> dict[str, Any]:
        """Put a question to the peer.

        Raises:
            PeerLost: no answer in time, or the answer is an error.
        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send({"ask": what, "number": number, **data})
        try:
            async with asyncio.timeout(timeout_s):
                reply: dict[str, Any] = await answer
        except TimeoutError:
            raise PeerLost(f"the peer did not answer {what} within {timeout_s:g} s") from None
        finally:
            del self._waiting[number]
        if "error" in reply:
            raise PeerLost(f"the peer could not {what}: {reply['error']}")
        return reply

    def close(self) -> None:
        """Close the connection: the peer notices at once."""
        if not self.closed.is_set():
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
            self.closed.set()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_result({"error": "the connection broke"})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError as error:
            self.close()
            raise PeerLost(f"the connection broke: {error}") from error

    def _readable(self) -> None:
        try:
            message = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            self.close()
            return
        if "ask" in message and self._handler is not None:
            task = asyncio.create_task(self._answer(self._handler, message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif message.get("number") in self._waiting and not self._waiting[message["number"]].done():
            self._waiting[message["number"]].set_result(message)

    async def _answer(self, handler: Handler, message: dict[str, Any]) -> None:
        try:
            reply = await handler(message)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        if not self.closed.is_set():
            self._send({**reply, "number": message["number"]})


def listen(path: str) -> socket.socket:
    """Wait at this Unix socket for whom `workers.streams` lets in: a peer that has proven itself."""
    unix = local.listen(Path(path))
    unix.setblocking(False)
    return unix


async def accept(listener: socket.socket, timeout_s: float) -> socket.socket:
    """The source's connection.

    Raises:
        PeerLost: it did not come in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
    except TimeoutError:
        raise PeerLost(f"the source did not connect within {timeout_s:g} s") from None
    return connection


def meeting(path: str) -> Path:
    """Where the guest's QEMU, whatever user it runs as, can meet this process: beside `JobDirectory.guest_socket`."""
    job = Path(path).parent
    return job.parents[1] / "streams" / f"{job.name}-ram.sock"


async def call(path: str) -> socket.socket:
    """A connection to the socket of the same stream at the destination, by this host's end of the job's streams.

    Raises:
        PeerLost: nobody is there, or there is no way.
    """
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CALL_S):
            await loop.sock_connect(unix, path)
            answer = await loop.sock_recv(unix, handshake.LONGEST_LINE)
    except OSError as error:  # a time-out is one, too
        unix.close()
        raise PeerLost(f"the destination's {Path(path).stem} cannot be reached: {str(error) or 'no answer'}") from error
    if answer != handshake.ACCEPTED:
        unix.close()
        said = answer.decode(errors="replace").strip() or "the process that carries the streams ended"
        raise PeerLost(f"the destination's {Path(path).stem} cannot be reached: {said}")
    return unix
