"""The direct line between the two switch processes: authenticated both ways, questions and answers as JSON.

`multiprocessing.connection` proves by HMAC that both ends hold the attempt's key; only bytes are exchanged.
"""

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from models.errors import DroverError

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class PeerLost(DroverError):
    """The other switch process is gone, silent, or said that it cannot."""


class Channel:
    """Asks and answers at the same time, so that a ping is answered while long work goes on."""

    def __init__(self, connection: "Connection[Any, Any]", handler: Handler | None = None) -> None:
        self._connection = connection
        self._handler = handler
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count()
        self._answering: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()
        _send_at_once(connection)
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
        """Hang up: the peer sees it at once."""
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


def listen(address: str, key: bytes) -> Listener:
    """Wait for the source at a free port of this address."""
    return Listener((address, 0), authkey=key)


async def accept(listener: Listener, timeout_s: float) -> "Connection[Any, Any]":
    """The one connection whose peer holds the key; others are turned away.

    Raises:
        PeerLost: nobody came in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.to_thread(listener.accept)
    except (OSError, EOFError, TimeoutError) as error:
        raise PeerLost(f"the source did not connect: {error}") from error


async def call(address: str, port: int, key: bytes) -> "Connection[Any, Any]":
    """Reach the destination's switch process.

    Raises:
        PeerLost: nobody there, or it does not hold the key.
    """
    try:
        async with asyncio.timeout(5):
            return await asyncio.to_thread(Client, (address, port), authkey=key)
    except Exception as error:
        raise PeerLost(f"the destination's switch process at {address}:{port} cannot be reached: {error}") from error


def _send_at_once(connection: "Connection[Any, Any]") -> None:
    with socket.socket(fileno=socket.dup(connection.fileno())) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
