"""Listens to the QEMUs of one guest on all hosts, through monitors of its own: who ran when, by QEMU's own events."""

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, QMPClient, QMPError

RUNS = {"RESUME"}
STANDS = {"STOP", "SHUTDOWN"}
RETRY_S = 0.01
NOTICED_S = 0.5
"""How late, on a busy machine, the death of a QEMU may be noticed; a dead one does not run."""


@dataclass
class Run:
    """One QEMU's guest ran from `begin` to `end`, in seconds since 1970."""

    host: str
    begin: float
    end: float | None = None
    died: bool = False
    """It ended because its QEMU did, so `end` is when we noticed."""


@dataclass
class Witness:
    """Use as a context; read `runs` afterwards."""

    sockets: dict[str, Path]
    """By host: the guest's second monitor there."""
    runs: list[Run] = field(default_factory=list)

    def __enter__(self) -> "Witness":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._listen(),), daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._all.cancel)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        following = (self._follow(host, path) for host, path in self.sockets.items())
        self._all = asyncio.gather(*following, return_exceptions=True)
        self._ready.set()
        with suppress(asyncio.CancelledError):
            await self._all

    async def _follow(self, host: str, path: Path) -> None:
        while True:
            if path.exists():
                with suppress(QMPError, OSError, EOFError, TimeoutError):
                    await self._hear_out(host, path)
            await asyncio.sleep(RETRY_S)

    async def _hear_out(self, host: str, path: Path) -> None:
        """One QEMU, from its first answer to its end."""
        client, events = QMPClient("witness"), EventListener(RUNS | STANDS)
        client.register_listener(events)
        try:
            async with asyncio.timeout(2):
                await client.connect(str(path))
            await self._while_connected(client, events, host)
        finally:
            with suppress(QMPError, OSError, EOFError):
                await client.disconnect()

    async def _while_connected(self, client: QMPClient, events: EventListener, host: str) -> None:
        reading = asyncio.create_task(self._read_events(client, events, host))
        gone = asyncio.create_task(client.runstate_changed())
        try:
            await asyncio.wait({reading, gone}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # its last events are still to be read
            self._died(host)
        finally:
            reading.cancel()
            gone.cancel()
            await asyncio.gather(reading, gone, return_exceptions=True)

    async def _read_events(self, client: QMPClient, events: EventListener, host: str) -> None:
        status: Any = await client.execute("query-status")
        if status["status"] == "running":
            self._begin(host, time.time())
        async for event in events:
            stamp: Any = event["timestamp"]
            at = stamp["seconds"] + stamp["microseconds"] / 1e6
            if event["event"] in RUNS and self._open(host) is None:
                self._begin(host, at)
            elif event["event"] in STANDS and (run := self._open(host)) is not None:
                run.end = at

    def _open(self, host: str) -> Run | None:
        return next((run for run in self.runs if run.host == host and run.end is None), None)

    def _died(self, host: str) -> None:
        if (run := self._open(host)) is not None:
            run.end, run.died = time.time(), True

    def _begin(self, host: str, at: float) -> None:
        self.runs.append(Run(host, at))

    def overlaps(self) -> list[str]:
        """Every instant range at which two copies ran, as a sentence; empty is what must be."""
        found = []
        for one, other in combinations(sorted(self.runs, key=lambda run: run.begin), 2):
            ended = one.end if one.end is not None else float("inf")
            if one.host != other.host and ended > other.begin + (NOTICED_S if one.died else 0):
                found.append(f"it ran on {one.host} and {other.host} for {1000 * (ended - other.begin):.0f} ms")
        return found

    def longest_pause_s(self) -> float:
        """The longest time between two runs; what follows the last run does not count."""
        runs = sorted(self.runs, key=lambda run: run.begin)
        pauses = [later.begin - earlier.end for earlier, later in pairwise(runs) if earlier.end]
        return max(pauses, default=0.0)

    def running_on(self) -> str | None:
        """The host on which it runs now."""
        return next((host for host in self.sockets if self._open(host) is not None), None)
