"""The destination's half of the switchover: load the guest, and let it run only when told `run`."""

import asyncio
import os
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from drover.errors import DroverError
from workers import files
from workers.guest.run_marker import SET_CONTENT
from workers.images import manifest
from workers.qemu import balloon, bitmaps, block, limits, migration
from workers.qemu.monitor import Monitor, connect
from workers.switchover import channel
from workers.switchover.channel import Channel, PeerLost
from workers.switchover.journal import Journal
from workers.switchover.parameters import DestinationParameters
from workers.switchover.timing import Timer

ACCEPT_TIMEOUT_S = 60.0
SILENCE_S = 10.0
"""The source pings several times a second; without a message for this long it is frozen."""


class Destination:
    """Answers the source's questions, one method each."""

    def __init__(
        self, parameters: DestinationParameters, journal: Journal, guest: Monitor, nbd_server: Monitor
    ) -> None:
        self.parameters = parameters
        self.journal = journal
        self.guest = guest
        self.nbd_server = nbd_server
        self.heard_at = time.monotonic()
        self.finished = asyncio.Event()
        self.told_to_run = False
        self.marker = files.private(Path(parameters.marker), os.O_RDWR)
        os.pwrite(self.marker, b"-" * len(SET_CONTENT), 0)  # the block exists: marking it later is one short write
        os.fsync(self.marker)

    async def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Dispatch a question of the source."""
        self.heard_at = time.monotonic()
        handlers = {
            "hello": self.hello,
            "ping": self.ping,
            "fsync": self.fsync,
            "limit": lambda: self.limit(message["limits"]),
            "set_balloons": lambda: self.set_balloons(message["intervals"]),
            "take_bitmaps": lambda: self.take_bitmaps(message["bitmaps"]),
            "release": self.release,
            "run": self.run,
        }
        return await handlers[message["ask"]]()

    async def hello(self) -> dict[str, Any]:
        """The clock of this host, so that the downtime can be told across two clocks."""
        return {"now": time.time()}

    async def take_ram(self, listening: socket.socket) -> None:
        """The source connects when it begins to send."""
        stream, _ = await asyncio.get_running_loop().sock_accept(listening)
        with stream:
            await migration.receive(self.guest, stream)

    async def ping(self) -> dict[str, Any]:
        """Both processes here answer, or this raises."""
        await self.nbd_server.query("query-version", timeout_s=1.0)
        await self.guest.query("query-version", timeout_s=1.0)
        return {}

    async def limit(self, wanted: limits.Limits) -> dict[str, Any]:
        """The guest's disks are to be as limited here as they are over there now."""
        await limits.apply(self.guest, wanted)
        return {}

    async def set_balloons(self, intervals: dict[str, int]) -> dict[str, Any]:
        """Balloons ask for statistics as often as over there."""
        await balloon.set_intervals(self.guest, intervals)
        return {}

    async def take_bitmaps(self, carried: bitmaps.Bitmaps) -> dict[str, Any]:
        """The dirty bitmaps of others come with the RAM."""
        await migration.prepare_incoming(self.guest, bitmaps.CAPABILITY)
        await bitmaps.map_to_each_other(self.guest, carried)
        return {}

    async def fsync(self) -> dict[str, Any]:
        """Write the images out while the guest still runs, so that less is left for the pause."""
        await asyncio.to_thread(manifest.fsync, self.parameters.images)
        return {}

    async def release(self) -> dict[str, Any]:
        """Take the exports and their nodes away: QEMU can then lock the images itself."""
        await block.withdraw(self.nbd_server, self.parameters.exports, self.parameters.nodes)
        self.journal.write("released")
        return {}

    async def run(self) -> dict[str, Any]:
        """The source has handed the guest over for good: it runs here from now on."""
        self.told_to_run = True
        phases: dict[str, float] = {}
        with Timer(phases, "check"):
            await migration.loaded(self.guest)
        with Timer(phases, "marker"):
            os.pwrite(self.marker, SET_CONTENT, 0)
            os.fdatasync(self.marker)
            self.journal.write("marked")
        begun = time.time()
        resumed_at = await migration.resume(self.guest)
        phases["resume"] = 1000 * (resumed_at - begun)  # not until this process sees it: the guest runs already
        self.journal.write("resumed", resumed_at=resumed_at)
        self.finished.set()
        return {"resumed_at": resumed_at, "phases": phases}


async def serve(parameters: DestinationParameters) -> None:
    """Receive the guest, or end without touching it if the source goes away first."""
    journal = Journal(Path(parameters.journal))
    journal.write("started", pid=os.getpid())
    try:
        await _serve(parameters, journal)
    except DroverError as error:
        journal.write("closed", reason=str(error))


async def _serve(parameters: DestinationParameters, journal: Journal) -> None:
    async with AsyncExitStack() as stack:
        guest = await stack.enter_async_context(connect(parameters.qmp))
        nbd_server = await stack.enter_async_context(connect(parameters.nbd_server_qmp))
        await migration.prepare_incoming(guest)
        destination = Destination(parameters, journal, guest, nbd_server)
        ram = stack.enter_context(channel.listen(parameters.ram))
        with channel.listen(parameters.switchover) as listener:
            journal.write("listening")
            connection = await channel.accept(listener, ACCEPT_TIMEOUT_S)
            journal.write("connected")
        taking = asyncio.create_task(destination.take_ram(ram))
        try:
            await _until_finished(destination, Channel(connection, destination.answer), taking)
        finally:
            taking.cancel()
        await guest.execute("announce-self", initial=50, max=550, rounds=5, step=100)


async def _until_finished(destination: Destination, line: Channel, taking: "asyncio.Task[None]") -> None:
    """After `run`, finish also without the source; before that, its silence ends the attempt, as does a QEMU that does
    not take the RAM.
    """
    finished = asyncio.create_task(destination.finished.wait())
    closed = asyncio.create_task(line.closed.wait())
    try:
        while not finished.done():
            await asyncio.wait({finished, closed}, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
            if taking.done() and not destination.told_to_run:
                taking.result()
            silent = time.monotonic() - destination.heard_at > SILENCE_S
            if (closed.done() or silent) and not destination.told_to_run:
                raise PeerLost("the source went away before it sent run")
            if closed.done() and not finished.done():
                await asyncio.wait({finished}, timeout=SILENCE_S)
                break
        if not finished.done():
            raise PeerLost("the guest did not start here")
    finally:
        finished.cancel()
        closed.cancel()
        if not destination.finished.is_set():
            line.close()
