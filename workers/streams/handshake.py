"""How both ends prove themselves, within a time that counts for all of it: TLS, then one line each way."""

import fcntl
import logging
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from drover.errors import DroverError
from workers.streams.credentials import CredentialFiles, Credentials

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Mine = Credentials | CredentialFiles | None
TAKEN_WITHIN_S = 1.0
LONGEST_LINE = 512
ACCEPTED = b"ok\n"
FULL_S = 0.01


class Refused(DroverError):
    """The other end does not prove itself, or does not let us in."""


def within(connection: socket.socket, deadline: float, act: Callable[[], Answer], event: int = 0) -> Answer:
    """Do something with a connection that does not block, again once it is ready for it.

    Raises:
        TimeoutError: it took too long.
    """
    while True:
        try:
            return act()
        except ssl.SSLWantReadError:
            event = select.POLLIN
        except ssl.SSLWantWriteError:
            event = select.POLLOUT
        except BlockingIOError:
            pass  # without TLS what is waited for is what was tried
        _ready(connection, event, deadline)


def _ready(connection: socket.socket, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(connection.fileno(), event)
    if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        raise TimeoutError("it does not answer")


def accepted(listening: socket.socket) -> tuple[socket.socket, Any] | None:
    """Who connects next, and from where; None: it hung up before it was its turn, or no descriptor is free just now."""
    try:
        return listening.accept()
    except OSError as error:
        log.debug("nobody could be let in: %s", error)
        time.sleep(FULL_S)
        return None


def wrap(raw: socket.socket, context: ssl.SSLContext | None, name: str | None = None, *, server: bool) -> socket.socket:
    """The same connection, with TLS on it unless both hosts are set to plain text. Nothing is sent yet.

    `name` is what a client asks for.
    """
    raw.setblocking(False)
    if context is None:
        return raw
    return context.wrap_socket(raw, server_side=server, do_handshake_on_connect=False, server_hostname=name)


def prove(connection: socket.socket, mine: Mine, deadline: float, *, server: bool) -> None:
    """Both ends show certificates that the other trusts.

    Raises:
        OSError: TLS does not come about, or not in time.
        Refused: the peer's certificate is another host's.
    """
    if not isinstance(connection, ssl.SSLSocket) or mine is None:
        return
    within(connection, deadline, connection.do_handshake)
    if server and mine.peer_name is not None and mine.peer_name not in _names(connection):
        raise Refused(f"the certificate of the other end does not name {mine.peer_name}")


def _names(connection: ssl.SSLSocket) -> set[str]:
    certificate: Any = connection.getpeercert() or {}
    return {str(name) for _, name in certificate.get("subjectAltName", ())}


def read_line(connection: socket.socket, deadline: float) -> bytes:
    """A line without its end, and nothing of what may follow it.

    Raises:
        OSError: it does not come in time.
        Refused: that was no line.
    """
    said = b""
    while not said.endswith(b"\n"):
        part = within(connection, deadline, lambda: connection.recv(1), select.POLLIN)
        said += part
        if not part or len(said) >= LONGEST_LINE:
            raise Refused("it hung up" if not part else "it says too much")
    return said[:-1]


def write(connection: socket.socket, line: bytes, deadline: float) -> None:
    """Send a line."""
    while line:
        line = line[within(connection, deadline, lambda: connection.send(line), select.POLLOUT) :]  # noqa: B023


def hang_up(*connections: socket.socket | None) -> None:
    """Close those that are there; the other ends see it at once."""
    for connection in filter(None, connections):
        interrupt(connection)
        connection.close()


def drop(connection: socket.socket) -> None:
    """Close it. What the peer has not taken soon is never sent: after an outage it would come behind newer things."""
    deadline = time.monotonic() + TAKEN_WITHIN_S
    with suppress(OSError):
        while _outstanding(connection):
            if time.monotonic() > deadline:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                break
            time.sleep(0.01)
    hang_up(connection)


def _outstanding(connection: socket.socket) -> int:
    """Bytes that the peer's kernel has not acknowledged, tcp(7)."""
    count: int = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return count


def interrupt(connection: socket.socket) -> None:
    """End a connection that another thread uses; that thread closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
