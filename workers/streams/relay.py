"""Carries bytes between a local connection and one to the other host, both ways, until either ends."""

import select
import socket
import ssl

CHUNK_BYTES = 256 << 10
"""What one step carries. Larger ones gain nothing, smaller ones cost CPU (`make bench`, part `streams`)."""
LAST_S = 1.0
"""Once one side has hung up, the other has so long to take more of what was sent before. QEMU needs that: where it cuts
a Unix socket whose buffer is full, its requests wait until this end is closed as well (10.0.2)."""
IN, OUT = select.POLLIN, select.POLLOUT
Connection = socket.socket
"""An `ssl.SSLSocket` is one."""


class Waits(Exception):
    """Nothing more can be done before the connection is ready for this."""

    def __init__(self, event: int) -> None:
        self.event = event


class _Way:
    """One direction: what was read and is not yet written."""

    def __init__(self, reads: Connection, writes: Connection) -> None:
        self.reads, self.writes = reads, writes
        self.room = memoryview(bytearray(CHUNK_BYTES))
        self.held = self.room[:0]
        self.ended = False
        self.waits: tuple[Connection, int] = (reads, IN)

    def step(self) -> bool:
        """Carry as much as goes now. False once all is carried that will ever come."""
        try:
            while True:
                if self.held:
                    self._write()
                elif self.ended:
                    return False
                else:
                    self._read()
        except Waits as waits:
            self.waits = (self.writes if self.held else self.reads, waits.event)
        return True

    def _read(self) -> None:
        """As much as there is: TLS gives 16 KiB at a time."""
        filled = 0
        try:
            while filled < CHUNK_BYTES:
                count = _receive(self.reads, self.room[filled:])
                if not count:
                    self.ended = True
                    break
                filled += count
        except Waits:
            if not filled:
                raise
        self.held = self.room[:filled]

    def _write(self) -> None:
        self.held = self.held[_send(self.writes, self.held) :]


def relay(near: Connection, far: Connection) -> None:
    """Until either side has hung up and what it sent is delivered, as far as the other still takes it. Closes neither.

    Raises:
        OSError: a connection broke.
    """
    near.setblocking(False)
    far.setblocking(False)
    ways = (_Way(near, far), _Way(far, near))
    hung_up = False
    while ways[0].step() and ways[1].step():
        wanted = {} if hung_up else {near.fileno(): 0, far.fileno(): 0}
        for connection, event in (way.waits for way in ways):
            wanted[connection.fileno()] = wanted.get(connection.fileno(), 0) | event
        poll = select.poll()
        for descriptor, events in wanted.items():
            poll.register(descriptor, events)
        ready = poll.poll(1000 * LAST_S if hung_up else None)
        if not ready:
            return
        hung_up = hung_up or any(event & (select.POLLHUP | select.POLLERR) for _, event in ready)


def _receive(connection: Connection, room: memoryview) -> int:
    try:
        return connection.recv_into(room)
    except (BlockingIOError, ssl.SSLWantReadError):
        raise Waits(IN) from None
    except ssl.SSLWantWriteError:
        raise Waits(OUT) from None
    except ssl.SSLEOFError:
        return 0


def _send(connection: Connection, held: memoryview) -> int:
    try:
        return connection.send(held)
    except (BlockingIOError, ssl.SSLWantWriteError):
        raise Waits(OUT) from None
    except ssl.SSLWantReadError:
        raise Waits(IN) from None
