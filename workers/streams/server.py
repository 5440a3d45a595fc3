"""The destination's end: lets in who proves that it is the source of this very job, and connects it to a Unix socket.

Strangers may connect as often as they like: so many are heard at a time, each for a moment. When one more comes, the
oldest connection of the address that has most of them ends, so that strangers elsewhere end none of the right peer's.
For who does not begin as the right peer does neither TLS nor a thread is begun: it costs little more than it spends.
Who comes from the source's own address has a queue to itself, see `workers.streams.queues`.
"""

import hmac
import itertools
import logging
import os
import select
import socket
import threading
import time
from collections import Counter
from typing import NamedTuple

from drover.errors import DroverError
from workers.streams import credentials, handshake
from workers.streams.parameters import ServerParameters
from workers.streams.relay import relay

log = logging.getLogger(__name__)

PROVE_S = 3.0
"""The right peer needs milliseconds, on a busy host some tenths of a second."""
PROVING_AT_ONCE = 256
LONGEST_BEGINNING = 4096
"""Bytes in which the right peer has shown its mark: a ClientHello, or a line."""
HANDSHAKE = b"\x16"


class _Beginning(NamedTuple):
    """Somebody who has not shown the mark yet."""

    number: int
    connection: socket.socket
    until: float


class Server:
    """Accepts what comes into one queue of the port, for as long as the process lives."""

    def __init__(self, told: ServerParameters, listening: int) -> None:
        self.told = told
        self.listening = socket.socket(fileno=listening)
        self.listening.setblocking(False)
        self.shown = credentials.Shown(credentials.server_context, told.credentials) if told.credentials else None
        self.mark = told.mark.encode()
        self.numbers = itertools.count()
        self.proving: dict[int, tuple[str, socket.socket]] = {}
        """{a number: (address of the other end, connection)}, the oldest first."""
        self.lock = threading.Lock()
        self.begins: dict[int, _Beginning] = {}
        """{descriptor: who}, the oldest first."""
        self.poll = select.epoll()

    def run(self) -> None:
        """Never returns."""
        self.poll.register(self.listening, select.EPOLLIN)
        while True:
            self._turn()

    def _turn(self) -> None:
        """See to all who have come or said something by now."""
        for descriptor, _ in self.poll.poll(self._patience()):
            if descriptor == self.listening.fileno():
                self._accept()
            else:
                self._hear(descriptor)
        self._give_up()

    def _patience(self) -> float | None:
        """Seconds until the oldest of those who begin has had its time."""
        oldest = next(iter(self.begins.values()), None)
        return None if oldest is None else max(0.0, oldest.until - time.monotonic())

    def _accept(self) -> None:
        come = handshake.accepted(self.listening)
        if come is None:
            return
        raw, (address, *_) = come
        raw.setblocking(False)
        self._make_room()
        number = next(self.numbers)
        with self.lock:
            self.proving[number] = address, raw
        self.begins[raw.fileno()] = _Beginning(number, raw, time.monotonic() + PROVE_S)
        self.poll.register(raw, select.EPOLLIN | select.EPOLLET)

    def _hear(self, descriptor: int) -> None:
        """Somebody has said more, or the connection is hung up."""
        begins = self.begins[descriptor]
        try:
            said = begins.connection.recv(LONGEST_BEGINNING, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said and self.mark in said:
            del self.begins[descriptor]
            self.poll.unregister(descriptor)
            self._hear_out(*begins)
        elif not said or self._is_whole(said):
            self._drop(descriptor)

    def _is_whole(self, said: bytes) -> bool:
        """It is no part of a ClientHello (RFC 8446, 5.1), or of a line, of which the rest is to come."""
        if self.shown is None:
            return b"\n" in said or len(said) == LONGEST_BEGINNING
        length = 5 + int.from_bytes(said[3:5], "big")
        return not said.startswith(HANDSHAKE) or len(said) >= min(length, LONGEST_BEGINNING)

    def _hear_out(self, number: int, raw: socket.socket, until: float) -> None:
        try:
            far = self._wrapped(raw)
        except OSError as error:  # it has hung up since, which Python's TLS looks for
            log.debug("somebody has hung up: %s", error)
            self._is_no_stranger(number)
            raw.close()
            return
        with self.lock:
            if number in self.proving:
                self.proving[number] = self.proving[number][0], far
        threading.Thread(target=self._serve, args=(number, far, until), daemon=True).start()

    def _give_up(self) -> None:
        """Those who have had their time."""
        while self._patience() == 0.0:
            self._drop(next(iter(self.begins)))

    def _drop(self, descriptor: int) -> None:
        begins = self.begins.pop(descriptor)
        self._is_no_stranger(begins.number)
        handshake.hang_up(begins.connection)

    def _wrapped(self, raw: socket.socket) -> socket.socket:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return handshake.wrap(raw, self.shown.context() if self.shown else None, server=True)

    def _make_room(self) -> None:
        with self.lock:
            if len(self.proving) < PROVING_AT_ONCE:
                return
            [(busiest, _)] = Counter(address for address, _ in self.proving.values()).most_common(1)
            oldest = next(number for number, (address, _) in self.proving.items() if address == busiest)
            _, ended = self.proving.pop(oldest)
        handshake.interrupt(ended)

    def _serve(self, number: int, far: socket.socket, until: float) -> None:
        near = None
        try:
            near = self._let_in(far, until)
            self._is_no_stranger(number)
            relay(near, far)
        except (OSError, DroverError) as error:
            log.debug("a connection ended: %s", error)
        finally:
            self._is_no_stranger(number)
            handshake.hang_up(near, far)

    def _is_no_stranger(self, number: int) -> None:
        with self.lock:
            self.proving.pop(number, None)

    def _let_in(self, far: socket.socket, deadline: float) -> socket.socket:
        """The local connection, once the peer has proven itself and somebody listens for it here."""
        handshake.prove(far, self.told.credentials, deadline, server=True)
        stream, _, secret = handshake.read_line(far, deadline).decode(errors="replace").partition(" ")
        if not hmac.compare_digest(secret.encode(), self.told.secret.encode()):
            raise handshake.Refused("it does not hold this job's secret")
        near = self._local(stream, far, deadline)
        handshake.write(far, handshake.ACCEPTED, deadline)
        return near

    def _local(self, stream: str, far: socket.socket, deadline: float) -> socket.socket:
        near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            near.connect(self.told.sockets[stream])
        except (OSError, KeyError) as error:
            near.close()
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no such stream"
            handshake.write(far, f"nobody listens for {stream} there: {reason}\n".encode(), deadline)
            raise
        return near


def main(told: ServerParameters) -> None:
    """Serve until the process is ended."""
    if told.of_source is not None:
        threading.Thread(target=Server(told, told.of_source).run, daemon=True).start()
    server = Server(told, told.listening)
    log.info("carries streams of its job, port %s", server.listening.getsockname()[1])
    server.run()
