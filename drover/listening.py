"""Where a service of ours listens: `ADDRESS:PORT`."""

import os
import socket
from ipaddress import ip_address

from drover.errors import PreconditionFailed


def split(address: str) -> tuple[str, int]:
    """Its address and its port; `[::1]:80` has the address `::1`.

    Raises:
        ValueError: the port is none.
    """
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal()):
        raise ValueError("it has no port")
    return (host[1:-1] if host.startswith("[") else host), int(port)


def check(address: str, cannot: str, setting: str, port_of_example: str) -> None:
    """Refuse an address at which nothing can listen.

    Raises:
        PreconditionFailed: `address` is no ADDRESS:PORT, or not this machine's, or taken.
    """
    try:
        host, port = split(address)
        if not host or not 0 < port < 1 << 16:
            raise ValueError("an address and a port between 1 and 65535 are wanted")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except (ValueError, OSError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise PreconditionFailed(
            f"{cannot} at {address!r} ({why}): set {setting} to ADDRESS:PORT, e.g. 127.0.0.1:{port_of_example} or "
            f"[::]:{port_of_example}, with an address of this machine and a free port"
        ) from error


def only_here(host: str) -> bool:
    """Nobody but this machine reaches that address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
