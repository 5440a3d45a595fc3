"""Unix sockets of the worker's own user, on which one end of a stream, or what a stream leads to, listens."""

import socket
from pathlib import Path

BACKLOG = 128


def listen(path: Path) -> socket.socket:
    """Listen there, in place of whatever listened before."""
    path.unlink(missing_ok=True)
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        unix.bind(str(path))
        path.chmod(0o600)
        unix.listen(BACKLOG)
    except OSError:
        unix.close()
        raise
    return unix
