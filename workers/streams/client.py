"""The source's end: whoever connects to one of its Unix sockets is connected to that stream's at the destination."""

import logging
import os
import select
import socket
import ssl
import threading
import time

from drover.errors import DroverError
from workers.process import sockets
from workers.streams import credentials, handshake
from workers.streams.parameters import NBD, ClientParameters
from workers.streams.relay import relay

log = logging.getLogger(__name__)

CONNECT_S = 3.0
"""A guest's QEMU waits for so long at most, and with it the guest's disks."""
TRIES_S = (0.1, 0.1, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6)
"""What each try to reach the other end takes of it. While strangers fill the queue of its port, the kernel there drops
who comes, and the one here would ask again only after 1 s and 3 s."""
SILENT = frozenset({NBD})
"""Streams whose local end is a QEMU: it is told nothing but what the far end says."""


def open_stream(told: ClientParameters, stream: str, context: ssl.SSLContext | None) -> socket.socket:
    """A connection to a stream's socket at the destination.

    Raises:
        OSError: there is no way, or the other end does not prove itself.
        Refused: the other end answers that it does not let us in, or that nobody listens there.
    """
    deadline = time.monotonic() + CONNECT_S
    raw = far = _reached(told)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far = handshake.wrap(raw, context, told.asks_for, server=False)
        handshake.prove(far, told.credentials, deadline, server=False)
        handshake.write(far, f"{stream} {told.secret}\n".encode(), deadline)
        answer = handshake.read_line(far, deadline)
        if answer + b"\n" != handshake.ACCEPTED:
            raise handshake.Refused(answer.decode(errors="replace"))
    except BaseException:
        handshake.hang_up(far)
        raise
    return far


def _reached(told: ClientParameters) -> socket.socket:
    """By turns from this host's own address, which has a queue to itself there, and from what the kernel chooses."""
    failed: OSError = TimeoutError()
    for number, wait_s in enumerate(TRIES_S):
        own = (told.own_address, 0) if number % 2 == 0 else None
        try:
            return socket.create_connection((told.address, told.port), timeout=wait_s, source_address=own)
        except ConnectionRefusedError:
            raise
        except OSError as error:
            failed = error
    raise failed


def context_of(told: ClientParameters) -> ssl.SSLContext | None:
    """None for plain text."""
    shown = shown_by(told)
    return shown.context() if shown else None


def shown_by(told: ClientParameters) -> credentials.Shown | None:
    """None for plain text."""
    return credentials.Shown(credentials.client_context, told.credentials) if told.credentials else None


class Client:
    """Accepts for as long as the process lives."""

    def __init__(self, told: ClientParameters) -> None:
        self.told = told
        self.shown = shown_by(told)
        self.listening = {number: (name, socket.socket(fileno=number)) for name, number in told.listening.items()}

    def run(self) -> None:
        """Never returns."""
        poll = select.poll()
        for number in self.listening:
            poll.register(number, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                stream, listening = self.listening[number]
                come = handshake.accepted(listening)
                if come is not None:
                    threading.Thread(target=self._serve, args=(stream, come[0]), daemon=True).start()

    def _serve(self, stream: str, near: socket.socket) -> None:
        far = None
        try:
            self._check(near)
            far = self._connect(stream, near)
            relay(near, far)
        except (OSError, DroverError) as error:
            log.info("the stream %s ended: %s", stream, error)
        finally:
            if stream == NBD and far is not None:
                handshake.drop(far)
            handshake.hang_up(near, far)

    def _check(self, near: socket.socket) -> None:
        """Only the guest's QEMU and processes of our own user get to the guest's disks over there."""
        pid, uid = sockets.peer(near)
        if pid != self.told.guest_pid and uid != os.geteuid():
            raise handshake.Refused(f"process {pid} of user {uid} is neither the guest's QEMU nor ours")

    def _connect(self, stream: str, near: socket.socket) -> socket.socket:
        try:
            far = open_stream(self.told, stream, self.shown.context() if self.shown else None)
        except (OSError, DroverError) as error:
            if stream not in SILENT:
                handshake.write(near, reason(error).encode() + b"\n", time.monotonic() + CONNECT_S)
            raise
        if stream not in SILENT:
            handshake.write(near, handshake.ACCEPTED, time.monotonic() + CONNECT_S)
        return far


def reason(error: Exception) -> str:
    """In words, also where the error has none."""
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_S:g} s"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def main(told: ClientParameters) -> None:
    """Serve until the process is ended."""
    log.info("carries streams of its job to %s:%s", told.address, told.port)
    Client(told).run()
