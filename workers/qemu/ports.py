"""The ports at which a guest's QEMU would listen, and those of its own host that it would connect to.

One that is taken keeps it from starting, and so does one where nothing listens.
"""

import errno
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from workers.qemu.options import CHANNELS_AND_GDB, NETWORKS, TRUE, Option, parse_command_line

FIRST_VNC = 5900
DEBUGGER = 1234
"""`-s`."""
LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|localhost|::1")
_HOST = r"(\[[^]]*\]|[^:,]*)"
"""An IPv6 address stands in brackets."""
_FORWARD = re.compile(rf"(tcp|udp)?:{_HOST}:(\d+)-")
_CHANNEL = re.compile(rf"(?:mon:)?(?:tcp|telnet|websocket):{_HOST}:(\d+)")
_DISPLAY = re.compile(rf"{_HOST}:(\d+)")


@dataclass(frozen=True)
class Port:
    """Where something listens."""

    option: Option
    host: str
    """Empty: at every address."""
    number: int
    kind: socket.SocketKind = socket.SOCK_STREAM

    @classmethod
    def written(cls, option: Option, host: str, number: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> "Port":
        """As `HOST:NUMBER` has it."""
        return cls(option, _bare(host), int(number), kind)


def ports(argv: Sequence[str]) -> Iterator[Port]:
    """All that are named by number in a command line; where QEMU may take the next free one (`to=`) none is."""
    for option in parse_command_line(argv):
        if option.name in _KINDS and option.get("to") is None:
            yield from _KINDS[option.name](option)


def connected(argv: Sequence[str]) -> Iterator[Port]:
    """Those at an address of the loopback that it connects to, once: with `reconnect` it tries again later."""
    for option in parse_command_line(argv):
        for host, number in _peers(option):
            again = any((option.get(key) or "0") != "0" for key in ("reconnect", "reconnect-ms"))
            if LOOPBACK.fullmatch(_bare(host)) and number.isdigit() and not again:
                yield Port.written(option, host, number)


def _peers(option: Option) -> Iterator[tuple[str, str]]:
    if option.listens:
        return
    said = option.dotted()
    if option.name == "chardev" and option.driver == "socket":
        yield said.get("host", ""), said.get("port", "")
    elif option.name in CHANNELS_AND_GDB - {"gdb"} and (found := _CHANNEL.match(option.value or "")):
        yield found[1], found[2]
    elif option.name in NETWORKS and option.driver == "stream":
        yield said.get("addr.host", ""), said.get("addr.port", "")
    elif option.name in NETWORKS and (peer := _DISPLAY.fullmatch(said.get("connect", ""))):
        yield peer[1], peer[2]
    elif option.is_on("reverse") and (viewer := _DISPLAY.match((option.value or "").removeprefix("vnc="))):
        yield viewer[1], viewer[2]
    yield from ((found[1], found[2]) for text in option.forwarded_to if (found := _CHANNEL.match(text)))


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


def _network(option: Option) -> Iterator[Port]:
    kind, said = option.driver, option.dotted()
    if kind == "user":
        yield from _forwarded(option)
    elif kind == "socket" and (found := _DISPLAY.fullmatch(said.get("listen", ""))):
        yield Port.written(option, found[1], found[2])
    elif kind == "socket" and "udp" in said and (found := _DISPLAY.fullmatch(said.get("localaddr", ""))):
        yield Port.written(option, found[1], found[2], socket.SOCK_DGRAM)
    elif kind == "stream" and said.get("server", "").lower() in TRUE:
        yield from _at(option, said.get("addr.host", ""), said.get("addr.port"))
    elif kind == "dgram" and "remote.host" in said:  # else it is a group, which many may join
        yield from _at(option, said.get("local.host", ""), said.get("local.port"), socket.SOCK_DGRAM)


def _chardev(option: Option) -> Iterator[Port]:
    if option.driver == "socket" and option.listens:
        yield from _at(option, option.get("host") or "", option.get("port"))
    elif option.driver == "udp":
        yield from _at(option, option.get("localaddr") or "", option.get("localport"), socket.SOCK_DGRAM)


def _channel(option: Option) -> Iterator[Port]:
    """A debugger needs no word to listen."""
    found = _CHANNEL.match(option.value or "")
    if found and (option.name == "gdb" or option.listens):
        yield Port.written(option, found[1], found[2])


def _debugger(option: Option) -> Iterator[Port]:
    yield Port(option, "", DEBUGGER)


def _spice(option: Option) -> Iterator[Port]:
    for key in ("port", "tls-port"):
        yield from _at(option, option.get("addr") or "", option.get(key))


def _forwarded(option: Option) -> Iterator[Port]:
    for value in option.texts("hostfwd"):
        if found := _FORWARD.match(value):
            kind = socket.SOCK_DGRAM if found[1] == "udp" else socket.SOCK_STREAM
            yield Port.written(option, found[2], found[3], kind)


def vnc(option: Option) -> Port | None:
    """Where it has VNC listen, if it does so at a port: a display has a number of its own."""
    found = _DISPLAY.match((option.value or "").removeprefix("vnc="))
    if found is None or option.name not in {"vnc", "display"} or option.is_on("reverse"):
        return None
    return Port(option, _bare(found[1]), FIRST_VNC + int(found[2]))


def _vnc(option: Option) -> Iterator[Port]:
    if (server := vnc(option)) is not None:
        yield server
        yield from _at(option, server.host, option.get("websocket"))


def _bare(host: str) -> str:
    return host.strip("[]")


def _at(option: Option, host: str, number: str | None, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[Port]:
    if number is not None and number.isdigit() and number != "0":
        yield Port(option, host, int(number), kind)


_KINDS: Mapping[str, Callable[[Option], Iterator[Port]]] = {
    **dict.fromkeys(NETWORKS, _network),
    **dict.fromkeys(("vnc", "display"), _vnc),
    **dict.fromkeys(CHANNELS_AND_GDB, _channel),
    "chardev": _chardev,
    "s": _debugger,
    "spice": _spice,
}
