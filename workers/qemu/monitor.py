"""QMP client, for QEMU and the storage daemon alike.

A monitor serves one client at a time; a second one connects and gets no greeting. Every wait here has an end.
`query` changes nothing; `execute` changes something and calls the guard first, so that a worker which lost its
claim stops before the hypervisor and not only before the database.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPClient,
    Runstate,
    StateError,
)
from qemu.qmp.qmp_client import GreetingError, NegotiationError

from drover import logs
from drover.errors import DroverError, Transient
from workers.process import sockets

log = logging.getLogger(__name__)

SECRET_NAMES = frozenset({"data", "key", "passphrase", "passwd", "password", "secret"})
"""Of arguments that hold one: `object-add` of a secret, `set_password`, `change-vnc-password`, block drivers."""
LONGEST_SHOWN = 2000
CONNECT_TIMEOUT_S = 5.0
NEGOTIATIONS = 3
COMMAND_TIMEOUT_S = 60.0
"""QEMU may take tens of seconds to activate images on slow storage."""

Guard = Callable[[], None]


class CommandRefused(DroverError):
    """QEMU refused the command; nothing was changed."""


class MonitorLost(Transient):
    """The connection broke or QEMU gave no answer. The command may have taken effect: query the state again."""


class Monitor:
    """A connection to one monitor, made by `connect`."""

    def __init__(self, client: QMPClient, pid: int, guard: Guard, *, takes_files: bool) -> None:
        self._client = client
        self._guard = guard
        self.pid = pid
        """The process that listens on the socket, as the kernel reports."""
        self.takes_files = takes_files
        """It is behind a Unix socket."""

    async def query(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S, **arguments: Any) -> Any:
        """Run a command that changes nothing.

        Raises:
            CommandRefused: QEMU answered with an error.
            MonitorLost: no answer.
        """
        return await self._run(command, arguments, timeout_s)

    async def execute(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S, **arguments: Any) -> Any:
        """Run a command that changes something, if the guard permits it. Errors as for `query`."""
        self._guard()
        return await self._run(command, arguments, timeout_s)

    async def execute_if_there(self, command: str, **arguments: Any) -> None:
        """`execute` for a command about something that may not be there: QEMU refuses it then, and nothing happens."""
        with suppress(CommandRefused):
            await self.execute(command, **arguments)

    async def execute_each(self, command: str, arguments: Iterable[Mapping[str, Any]]) -> None:
        """Run a command once with each of these, in this order, but send all of them before the first is answered.

        Those after one that is refused are carried out all the same. Errors as for `execute`: the first.
        """
        self._guard()
        running = [self._run(command, each, COMMAND_TIMEOUT_S) for each in arguments]
        for answer in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

    async def give(self, name: str, descriptor: int) -> None:
        """Hand an open file over to QEMU under a name, `fd:NAME` to its commands. Errors as for `execute`."""
        self._guard()
        try:
            self._client.send_fd_scm(descriptor)
        except (StateError, OSError) as error:
            raise self._lost("getfd") from error
        await self._run("getfd", {"fdname": name}, COMMAND_TIMEOUT_S)

    async def yank(self, **instance: str) -> None:
        """Cut a connection that blocks QEMU's main loop, if there is one; out of band, so it works when nothing else
        does.
        """
        self._guard()
        with suppress(CommandRefused):
            await self._run("yank", {"instances": [instance]}, timeout_s=2.0, oob=True)

    async def hmp(self, line: str) -> str:
        """What the human monitor prints for a line that changes nothing."""
        return str(await self.query("human-monitor-command", command_line=line))

    def listen(self, *names: str) -> EventListener:
        """A listener for these events. After the connection broke it gets neither events nor an error: poll as well."""
        listener = EventListener(names or None)
        self._client.register_listener(listener)
        return listener

    async def _run(self, command: str, arguments: Mapping[str, Any], timeout_s: float, oob: bool = False) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._client.execute(command, _wire(command, arguments), oob=oob)
        except ExecuteError as error:
            raise CommandRefused(f"{command}: {error}") from error
        except (ExecInterruptedError, StateError, TimeoutError) as error:
            raise self._lost(command) from error

    def _lost(self, command: str) -> MonitorLost:
        return MonitorLost(f"QEMU (pid {self.pid}) gave no answer to {command}")


UNDERSCORED = frozenset({"block_set_io_throttle"})
"""Commands whose arguments QMP itself writes so (`bps_rd`)."""


def _wire(command: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Python's `job_id` is QMP's `job-id`, at the top level; deeper keys are written as QMP has them."""
    if command in UNDERSCORED:
        return dict(arguments)
    return {key.replace("_", "-"): value for key, value in arguments.items()} or None


def _always() -> None:
    """The guard of callers that need none: read-only ones, and the switchover, which fences itself."""


@asynccontextmanager
async def connect(
    path: str | Path, guard: Guard = _always, timeout_s: float = CONNECT_TIMEOUT_S
) -> AsyncIterator[Monitor]:
    """A monitor for the time of a `with` block.

    Raises:
        MonitorLost: no process listens, another client holds the monitor, or QEMU does not answer.
    """
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(timeout_s):
                client, sock = await _negotiated(str(path))
                stack.push_async_callback(_hang_up, client)
                pid = await _listener(sock, str(path))
        except (OSError, ConnectError, ValueError) as error:  # a time-out is an OSError
            raise MonitorLost(await asyncio.to_thread(_why_silent, str(path), error)) from error
        yield Monitor(client, pid, guard, takes_files=sock.family == socket.AF_UNIX)


class _Client(QMPClient):
    """Logs messages in our format, and formats only those that are logged.

    The hooks of qemu.qmp 0.0.5 format each message for a debug log even when there is none: an eighth of what a worker
    does in a move, and part of each pause.
    """

    async def _do_recv(self) -> Message:
        """One message. `-qmp-pretty` and `pretty=on` spread it over lines; the last one is the brace that closes it."""
        text = await self._readline()
        if text.strip() == b"{":
            while not (line := await self._readline()).startswith(b"}"):
                text += line
            text += line
        return Message(text, eager=True)

    def _cb_outbound(self, msg: Message) -> Message:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("QMP > %s", _shown(msg))
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("QMP < %s", _shown(msg))
        return msg


def _shown(message: Message) -> str:
    """One line of QMP without secrets; what is too long is cut off."""
    text = json.dumps(_without_secrets(dict(message)))
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text)} characters)"


def _without_secrets(value: Any) -> Any:
    """Values under the names in `SECRET_NAMES` are left out. `drover.logs` masks our nonces and keys everywhere."""
    if isinstance(value, Mapping):
        return {
            name: logs.SECRET if name in SECRET_NAMES and isinstance(part, str) else _without_secrets(part)
            for name, part in value.items()
        }
    return [_without_secrets(part) for part in value] if isinstance(value, list) else value


async def _negotiated(path: str) -> tuple[QMPClient, socket.socket]:
    """A client past the greeting.

    An event of another of QEMU's threads (the migration's, a virtual CPU's) may come before the greeting, as QEMU still
    takes the monitor for the last client's, or between `qmp_capabilities` and its answer. qemu.qmp 0.0.5 takes it for
    what it waits for and gives up. The one was seen with 10.0, the other with 8.2 at the instant a guest stopped, each
    once in some thousand connections. Such a one is made anew.
    """
    for attempt in range(1, NEGOTIATIONS + 1):
        client, sock = _Client("drover"), await _open(path)
        try:
            await client.connect(sock)
            break
        except ConnectError as error:
            if attempt == NEGOTIATIONS or not isinstance(error.exc, GreetingError | NegotiationError):
                raise
        except AssertionError:  # qemu.qmp 0.0.5 asserts that a session which just began stands: QEMU died meanwhile
            await _hang_up(client)
            raise ConnectionResetError("it hung up as soon as it had greeted") from None
    return client, sock


async def _open(address: str) -> socket.socket:
    """Connect to a path or to `tcp:HOST:PORT`."""
    loop = asyncio.get_running_loop()
    there: Any = address
    if address.startswith("tcp:"):
        host, _, port = address.removeprefix("tcp:").rpartition(":")
        [(family, *_, there), *_] = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        sock = socket.socket(family)
    else:
        sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, there)
    except BaseException:
        sock.close()
        raise
    return sock


async def _listener(sock: socket.socket, address: str) -> int:
    """The pid of the process that listens at the other end."""
    if sock.family != socket.AF_UNIX:
        found = await asyncio.to_thread(sockets.listener, address)
        if found is None:
            raise OSError(f"`ss` does not tell who listens at {address}: only a QEMU of this host can be adopted")
        return found.pid
    return sockets.peer(sock)[0]


def _why_silent(address: str, error: BaseException) -> str:
    """Why no monitor answers, and who holds it if somebody does: QEMU serves one client at a time."""
    holder = sockets.holder(address) if isinstance(error, TimeoutError) else None
    if holder is not None and holder.pid != os.getpid():
        return f"the monitor {address} is held by {holder}: end its connection, or give QEMU one more monitor"
    return f"no monitor answers at {address} ({_reason(error)}): is QEMU running, and is no other client connected?"


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    cause = error.__cause__ or error
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__


async def _hang_up(client: QMPClient) -> None:
    if client.runstate is Runstate.IDLE:
        return
    with suppress(Exception):  # whatever ended the connection earlier comes once more: its user got that error
        async with asyncio.timeout(2):
            await client.disconnect()
