"""The ports at which a guest's QEMU would listen: one that is taken keeps it from starting."""

import errno
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.qemu.options import CHANNELS, NETWORKS, Option, parse_command_line

FIRST_VNC = 5900
_FORWARD = re.compile(r"(tcp|udp)?:([^:]*):(\d+)-")
_CHANNEL = re.compile(r"(?:mon:)?(?:tcp|telnet|websocket):([^:,]*):(\d+)")
_DISPLAY = re.compile(r"([^:,]*):(\d+)")


@dataclass(frozen=True)
class Port:
    """Where something listens."""

    option: Option
    host: str
    """Empty: at every address."""
    number: int
    kind: socket.SocketKind = socket.SOCK_STREAM


def ports(argv: Sequence[str]) -> Iterator[Port]:
    """All that are named by number in a command line; where QEMU may take the next free one (`to=`) none is."""
    for option in parse_command_line(argv):
        if option.name in NETWORKS and option.driver == "user":
            yield from _forwarded(option)
        elif option.name == "vnc" and option.get("to") is None:
            yield from _vnc(option)
        elif option.name in CHANNELS and option.listens:
            yield from _matches(option, _CHANNEL)
        elif option.name == "chardev" and option.driver == "socket" and option.get("port") and option.listens:
            yield from _at(option, option.get("host") or "", option.get("port"))
        elif option.name == "spice":
            yield from _at(option, option.get("addr") or "", option.get("port"))


def taken(port: Port) -> str | None:
    """Why nothing can listen there; it is tried for a moment, and nobody can connect meanwhile."""
    try:
        found = socket.getaddrinfo(port.host or None, port.number, type=port.kind, flags=socket.AI_PASSIVE)
    except OSError as error:
        return f"{port.host} is no address of this host ({error.strerror})"
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return f"port {port.number} is in use"
                if error.errno == errno.EADDRNOTAVAIL and port.host:
                    return f"{port.host} is no address of this host"
    return None


def _forwarded(option: Option) -> Iterator[Port]:
    for key, value in option.pairs():
        if key == "hostfwd" and (found := _FORWARD.match(value)):
            kind = socket.SOCK_DGRAM if found[1] == "udp" else socket.SOCK_STREAM
            yield Port(option, found[2], int(found[3]), kind)


def _vnc(option: Option) -> Iterator[Port]:
    if found := _DISPLAY.match(option.value or ""):
        yield Port(option, found[1], FIRST_VNC + int(found[2]))
        yield from _at(option, found[1], option.get("websocket"))


def _matches(option: Option, pattern: re.Pattern[str]) -> Iterator[Port]:
    if found := pattern.match(option.value or ""):
        yield Port(option, found[1], int(found[2]))


def _at(option: Option, host: str, number: str | None) -> Iterator[Port]:
    if number is not None and number.isdigit() and number != "0":
        yield Port(option, host, int(number))
