"""The destination's end: lets in who proves that it is the source of this very job, and connects it to a Unix socket.

Strangers may connect as often as they like: so many are heard at a time, each for a moment. When one more comes, the
oldest connection of the address that has most of them ends, so that strangers elsewhere end none of the right peer's.
Who comes from the source's own address has a queue to itself, see `workers.streams.queues`.
"""

import hmac
import logging
import os
import socket
import threading
import time
from collections import Counter

from drover.errors import DroverError
from workers.streams import credentials, handshake
from workers.streams.parameters import ServerParameters
from workers.streams.relay import relay

log = logging.getLogger(__name__)

PROVE_S = 3.0
"""The right peer needs milliseconds, on a busy host some tenths of a second."""
PROVING_AT_ONCE = 256


class Server:
    """Accepts what comes into one queue of the port, for as long as the process lives."""

    def __init__(self, told: ServerParameters, listening: int) -> None:
        self.told = told
        self.listening = socket.socket(fileno=listening)
        self.shown = credentials.Shown(credentials.server_context, told.credentials) if told.credentials else None
        self.proving: dict[int, tuple[str, socket.socket]] = {}
        """{a number: (address of the other end, connection)}, the oldest first."""
        self.lock = threading.Lock()

    def run(self) -> None:
        """Never returns."""
        number = 0
        while True:
            raw = handshake.accepted(self.listening)
            if raw is None:
                continue
            try:
                address, far = raw.getpeername()[0], self._wrapped(raw)
            except OSError as error:  # it has hung up since, which Python's TLS looks for
                log.debug("somebody has hung up: %s", error)
                raw.close()
                continue
            number += 1
            self._make_room()
            with self.lock:
                self.proving[number] = address, far
            threading.Thread(target=self._serve, args=(number, far), daemon=True).start()

    def _wrapped(self, raw: socket.socket) -> socket.socket:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = self.shown.context() if self.shown else None
        return handshake.wrap(raw, context, self.told.credentials, server=True)

    def _make_room(self) -> None:
        with self.lock:
            if len(self.proving) < PROVING_AT_ONCE:
                return
            [(busiest, _)] = Counter(address for address, _ in self.proving.values()).most_common(1)
            oldest = next(number for number, (address, _) in self.proving.items() if address == busiest)
            _, ended = self.proving.pop(oldest)
        handshake.interrupt(ended)

    def _serve(self, number: int, far: socket.socket) -> None:
        near = None
        try:
            near = self._let_in(far)
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

    def _let_in(self, far: socket.socket) -> socket.socket:
        """The local connection, once the peer has proven itself and somebody listens for it here."""
        deadline = time.monotonic() + PROVE_S
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
