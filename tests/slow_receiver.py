"""A receiver of webhooks that never ends its answer."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WORD_EVERY_S = 1.0
"""So often it sends another line of its answer: no time limit of a single read is ever reached."""


class _Slow(socketserver.BaseRequestHandler):
    server: "_Server"

    def handle(self) -> None:
        try:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n")
            while not self.server.ending.wait(WORD_EVERY_S):
                self.request.sendall(b"X-Wait: still\r\n")
        except OSError:
            return  # the sender gave up


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Slow)
        self.ending = threading.Event()


@contextmanager
def slow_receiver() -> Iterator[str]:
    """Its URL, for the time of a `with` block."""
    with _Server() as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/slow"
        finally:
            server.ending.set()
            server.shutdown()
            serving.join()
