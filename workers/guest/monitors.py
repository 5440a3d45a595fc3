"""The monitors of a running QEMU: where they listen, who holds each, and which one is free."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from workers.process import sockets
from workers.qemu.command_line import waits
from workers.qemu.monitor import Monitor, MonitorLost, connect
from workers.qemu.options import MONITORS, Option, escape, parse_command_line

OURS = "drover-monitor"
"""The id of a monitor that was added for the next host, where the guest had none that can be reached there alike."""


@dataclass(frozen=True)
class Listening:
    """A monitor that waits for a client."""

    address: str
    """Its path, or `tcp:HOST:PORT`."""
    control: bool
    """It speaks QMP; else it is for people."""

    @property
    def shown(self) -> str:
        """What it is, and who holds it."""
        if not _is_there(self.address):
            return f"nothing is at {self.address} any more: put it, or the folder that it lies in, back in its place"
        held = sockets.holder(self.address)
        kind = "" if self.control else ", a human monitor,"
        return f"{self.address}{kind} is {'free' if held is None else f'held by {held}'}"


def listening(argv: Sequence[str]) -> list[Listening]:
    """The monitors of a QEMU with this command line that clients can connect to, in its order."""
    options = parse_command_line(argv)
    sockets_by_id = {option.get("id"): _address(option) for option in options if option.name == "chardev"}
    found = [monitor for option in options for monitor in _monitors(option, sockets_by_id)]
    return list(dict.fromkeys(found))


def _monitors(option: Option, behind: dict[str | None, str | None]) -> Iterator[Listening]:
    value = option.value or ""
    if option.name in MONITORS or value.startswith("mon:"):
        value = value.removeprefix("mon:")
        address = behind.get(value.removeprefix("chardev:")) if value.startswith("chardev:") else _address(option)
        if address is not None:
            yield Listening(address, option.name.startswith("qmp"))
    elif option.name == "mon":
        name = option.get("chardev") or next((text for key, text in option.pairs() if key is None), "")
        if (address := behind.get(name)) is not None:
            yield Listening(address, option.get("mode") == "control")


def _address(option: Option) -> str | None:
    """Where a channel listens: `unix:PATH,server`, `tcp:HOST:PORT,server`, or a `-chardev socket`."""
    if not option.listens:
        return None
    if option.name == "chardev":
        path, host, port = option.get("path"), option.get("host") or "", option.get("port")
        return path or (f"tcp:{_host(f'{host}:{port}')}" if port else None)
    kind, _, rest = next(iter(option.pairs()), (None, ""))[1].removeprefix("mon:").partition(":")
    return rest if kind == "unix" else f"tcp:{_host(rest)}" if kind == "tcp" else None


def _host(address: str) -> str:
    """An address to connect to: QEMU that listens everywhere is reached here."""
    host, _, port = address.rpartition(":")
    return f"{host if host not in {'', '0.0.0.0', '[::]', '::'} else '127.0.0.1'}:{port}"  # noqa: S104 # nosec B104


def ours(path: str) -> list[str]:
    """What adds a QMP monitor of our own to a command line."""
    socket = f"socket,id={OURS},path={escape(path)},server=on,wait=off"
    return ["-chardev", socket, "-mon", f"chardev={OURS},mode=control"]


def our_path(argv: Sequence[str]) -> str | None:
    """Where the one listens that was added for an earlier move."""
    options = parse_command_line(argv)
    return next(
        (option.get("path") for option in options if option.name == "chardev" and option.get("id") == OURS), None
    )


def free(argv: Sequence[str], wanted: str) -> str:
    """The monitor that was named, or if somebody holds it, or it is gone, a free one of the same QEMU."""
    others = (monitor.address for monitor in listening(argv) if monitor.control)
    return next(
        (address for address in (wanted, *others) if _is_there(address) and not sockets.holder(address)), wanted
    )


def _is_there(address: str) -> bool:
    """A socket may be deleted, or its folder renamed, while QEMU listens at it."""
    return address.startswith("tcp:") or Path(address).exists()


@asynccontextmanager
async def connected(argv: Sequence[str], wanted: str) -> AsyncIterator[tuple[str, Monitor]]:
    """A connection to it, and its address. Somebody else may be quicker at one that was free a moment ago: then what is
    free now is taken.

    Raises:
        MonitorLost: none answers.
    """
    address = await asyncio.to_thread(free, argv, wanted)
    async with AsyncExitStack() as stack:
        try:
            monitor = await stack.enter_async_context(connect(address))
        except MonitorLost:
            lost, address = address, await asyncio.to_thread(free, argv, wanted)
            if address == lost:
                raise
            monitor = await stack.enter_async_context(connect(address))
        yield address, monitor


def why_none(argv: Sequence[str]) -> str:
    """Why no monitor of this QEMU can be used, for people."""
    if waiting := list(_waiting(argv)):
        return f"it may still be starting: nobody has connected to {', '.join(waiting)}, and QEMU waits for that"
    found = listening(argv)
    said = "; ".join(monitor.shown for monitor in found)
    if any(not monitor.control and sockets.holder(monitor.address) is None for monitor in found):
        return f"{said}. No QMP monitor can be added to a running QEMU, not by a human monitor either"
    return said


def _waiting(argv: Sequence[str]) -> Iterator[str]:
    """The channels that wait for their first client, and that nobody is connected to."""
    for option in parse_command_line(argv):
        address = _address(option) if waits(option) else None
        if address is not None and sockets.holder(address) is None:
            yield option.text
