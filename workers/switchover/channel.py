"""The direct line between the two switchover processes: authenticated both ways, questions and answers as JSON.

`multiprocessing.connection` proves by HMAC that both ends hold the attempt's key; only bytes are exchanged. Any process
that reaches the port can connect: unauthenticated peers are handled in parallel, for a limited time each, and do not
delay the attempt.
"""

import asyncio
import itertools
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing import AuthenticationError, ProcessError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from drover.errors import DroverError

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Proof = Callable[["Connection[Any, Any]", bytes], None]

CALL_S = 5.0
HEARING_S = 2.0
"""A peer that holds the key proves it in milliseconds."""
HEARD_AT_ONCE = 32
FULL_S = 0.01
BACKLOG = 128


class PeerLost(DroverError):
    """The other switchover process is gone, silent, or answered with an error."""


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


def listen(address: str) -> socket.socket:
    """Listen for the source at a free port of this address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=BACKLOG)


async def accept(listener: socket.socket, key: bytes, timeout_s: float) -> "Connection[Any, Any]":
    """The first connection whose peer proves that it holds the key; other connections do not delay it.

    Raises:
        PeerLost: no such peer came in time.
    """
    handshakes = _Handshakes(key)
    try:
        async with asyncio.timeout(timeout_s):
            return await handshakes.first(listener)
    except TimeoutError:
        others = f" ({handshakes.refused} others were refused)" if handshakes.refused else ""
        raise PeerLost(f"the source did not connect within {timeout_s:g} s{others}") from None
    finally:
        await handshakes.close()


async def call(address: str, port: int, key: bytes) -> "Connection[Any, Any]":
    """Reach the destination's switchover process.

    Raises:
        PeerLost: it cannot be reached, or does not hold the key.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(CALL_S):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
            return await _proven(sock, key, _answer_first)
    except (OSError, EOFError, ProcessError) as error:
        raise PeerLost(
            f"the destination's switchover process at {address}:{port} cannot be reached: {_reason(error)}"
        ) from error
    finally:
        sock.close()


class _Handshakes:
    """Connections that are not authenticated yet: a limited number at a time, each for a limited time."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._running: dict[asyncio.Task[None], socket.socket] = {}
        self._proven: asyncio.Future[Connection[Any, Any]] = asyncio.get_running_loop().create_future()
        self.refused = 0

    async def first(self, listener: socket.socket) -> "Connection[Any, Any]":
        """Accept connections until one is authenticated."""
        listener.setblocking(False)
        coming = asyncio.create_task(self._accept_all(listener))
        try:
            return await self._proven
        finally:
            coming.cancel()

    async def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError:  # it closed before its turn, or no descriptor is free now
                await asyncio.sleep(FULL_S)
                continue
            if len(self._running) >= HEARD_AT_ONCE:
                next(iter(self._running)).cancel()  # a peer with the key needs far less time than this one had
            task = asyncio.create_task(self._handshake(sock))
            self._running[task] = sock
            task.add_done_callback(self._over)

    async def _handshake(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(HEARING_S):
                connection = await _proven(sock, self._key, _challenge_first)
        except (OSError, EOFError, ProcessError):
            self.refused += 1
            return
        if self._proven.done():
            connection.close()
        else:
            self._proven.set_result(connection)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task).close()

    async def close(self) -> None:
        """Close all connections that are not authenticated."""
        left = list(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _proven(sock: socket.socket, key: bytes, prove: "Proof") -> "Connection[Any, Any]":
    """The connection of this socket, once both sides have proven that they hold the key.

    The library's proof blocks, so it has a thread of its own, which ends as soon as the connection is shut down.

    Raises:
        OSError, EOFError, ProcessError: the peer does not hold the key, or went away.
    """
    sock.setblocking(True)
    loop = asyncio.get_running_loop()
    connection: Connection[Any, Any] = Connection(os.dup(sock.fileno()))
    ended: asyncio.Future[Exception | None] = loop.create_future()

    def in_thread() -> None:
        failed: Exception | None = None
        try:
            prove(connection, key)
        except Exception as error:
            failed = error
        with suppress(RuntimeError):  # the loop is closed: nothing waits any more
            loop.call_soon_threadsafe(ended.set_result, failed)

    threading.Thread(target=in_thread, name="proof", daemon=True).start()
    try:
        failed = await asyncio.shield(ended)
        if failed is not None:
            raise failed
    except BaseException:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        await asyncio.shield(ended)  # the thread reads from the descriptor until then
        connection.close()
        raise
    return connection


def _challenge_first(connection: "Connection[Any, Any]", key: bytes) -> None:
    deliver_challenge(connection, key)
    answer_challenge(connection, key)


def _answer_first(connection: "Connection[Any, Any]", key: bytes) -> None:
    answer_challenge(connection, key)
    deliver_challenge(connection, key)


def _reason(error: Exception) -> str:
    """The error as a text, also where its own text is empty."""
    if isinstance(error, AuthenticationError):
        return "it does not hold this attempt's key"
    if isinstance(error, EOFError | ConnectionResetError):
        return "it closed the connection"
    if isinstance(error, TimeoutError):
        return f"no answer within {CALL_S:g} s"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _send_at_once(connection: "Connection[Any, Any]") -> None:
    with socket.socket(fileno=socket.dup(connection.fileno())) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
