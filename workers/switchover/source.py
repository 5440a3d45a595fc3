"""The source's half of the switchover: send the RAM, and hand the guest over only when all of it has arrived.

Reads like the protocol in this package's docstring. Anything that goes wrong before `run` is in the journal
ends with the guest running here.
"""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from drover.errors import DroverError
from workers.images import evidence, manifest
from workers.qemu import balloon, bitmaps, block, limits, migration
from workers.qemu.monitor import Monitor, connect
from workers.switchover import channel
from workers.switchover.channel import Channel, PeerLost
from workers.switchover.journal import Journal
from workers.switchover.parameters import SourceParameters, Terms
from workers.switchover.timing import Timer, uptime

PING_S = 0.3
REPORT_S = 0.2
PEER_SILENCE_S = 1.0
"""A peer that does not answer for this long counts as frozen, and the switchover is called off."""
SLOW_S = 10.0
"""Work that takes this long although the peer answers pings (a flush to slow storage) is called off."""
EARLY_LIMIT_MS = 1
"""Downtime limit until the second pass: QEMU would else stop the guest with more left than need be."""
UNLIMITED = 1 << 40
GREETINGS = 5
RESERVE_S = 1.0
"""A switchover does not begin in the last moment of its window: once the mirrors have ended, calling it off costs a new
copy of the disks."""
LAST_RESERVE_S = 0.2
"""Left for the destination to resume the guest within the window."""


class CalledOff(DroverError):
    """The switchover cannot be completed; the guest stays here."""


class WindowClosed(CalledOff):
    """The job's window has closed, or is about to."""


class GivenUp(CalledOff):
    """The RAM changes as fast as it is sent, and the worker says that it was tried for long enough."""


class Source:
    """One attempt at handing the guest over."""

    def __init__(self, parameters: SourceParameters, journal: Journal, guest: Monitor, line: Channel) -> None:
        self.parameters = parameters
        self.journal = journal
        self.guest = guest
        self.line = line
        self.phases: dict[str, float] = {}
        self.peer_lost: Exception | None = None
        self.clock_offset = 0.0
        self.events = guest.listen("MIGRATION", "MIGRATION_PASS", "STOP", "SHUTDOWN", "BLOCK_JOB_ERROR")
        self.passes = 0
        self.report_at = 0.0
        self.terms = Terms(
            bandwidth_bytes_per_s=parameters.bandwidth_bytes_per_s, max_downtime_ms=parameters.max_downtime_ms
        )
        self.may_switch = False
        self.stopped_at = 0.0
        self.pre_switchover_at = 0.0

    async def hand_over(self) -> None:
        """The whole protocol.

        Raises:
            DroverError, OSError: called off; the caller keeps the guest running here.
        """
        await self.greet()
        await self.prepare()
        await self.send_ram()
        await self.end_mirrors()
        released = asyncio.create_task(self.ask("release", SLOW_S))
        await self.complete_ram()
        with self.timed("release"):
            await released
        await self.let_run()

    async def ask(self, what: str, timeout_s: float = 5.0, **data: Any) -> dict[str, Any]:
        """Ask the destination, but no longer than it answers pings."""
        answer = asyncio.create_task(self.line.ask(what, timeout_s, **data))
        while not answer.done():
            await asyncio.wait({answer}, timeout=0.05)
            self.check_peer()
        return answer.result()

    def check_peer(self) -> None:
        """Raise the error that pinging has found."""
        if self.peer_lost is not None:
            raise self.peer_lost

    async def keep_pinging(self) -> None:
        """Notice a frozen peer or frozen QEMUs at the destination; runs beside all the rest."""
        try:
            while True:
                await self.line.ask("ping", PEER_SILENCE_S)
                await asyncio.sleep(PING_S)
        except PeerLost as error:
            self.peer_lost = error

    async def prepare(self) -> None:
        """Everything that can be done while the guest runs."""
        self.check_window(RESERVE_S)
        await self.check_mirrors()
        await self.check_guest({"running"})
        carried = await bitmaps.read(self.guest)
        more = [bitmaps.CAPABILITY] if carried else []
        more += ["auto-converge"] if self.parameters.slow_cpu else []
        await migration.set_capabilities(self.guest, "events", "return-path", "pause-before-switchover", *more)
        await self.guest.execute(
            "migrate-set-parameters",
            max_bandwidth=self.parameters.bandwidth_bytes_per_s or UNLIMITED,
            downtime_limit=EARLY_LIMIT_MS,
            **await migration.left_parameters(self.guest),
        )
        if carried:
            await self.ask("take_bitmaps", bitmaps=carried)
            await bitmaps.map_to_each_other(self.guest, carried)
        await self.carry()
        await self.write_out()

    async def carry(self) -> None:
        """What is in no device's state and may have changed since the start, as it is now."""
        found = await limits.read(self.guest, self.parameters.slowed)
        if found["groups"] or found["drives"]:
            await self.ask("limit", limits=found)
        if asked := await balloon.intervals(self.guest):
            await self.ask("set_balloons", intervals=asked)

    async def greet(self) -> None:
        """Learn how far the clock over there is ahead.

        The clock is compared at the middle of the quickest of several round trips: one that had to wait on a busy host
        may be wrong by half of its time, and so may the downtime.
        """
        quickest = math.inf
        for _ in range(GREETINGS):
            asked = time.time()
            reply = await self.ask("hello")
            took = time.time() - asked
            if took < quickest:
                quickest, self.clock_offset = took, reply["now"] - (asked + took / 2)

    async def check_mirrors(self) -> None:
        """All mirrors are ready and none of them stopped with an error."""
        states = await block.mirrors(self.guest, self.parameters.mirrors)
        for name in self.parameters.mirrors:
            if name not in states or not states[name].in_sync:
                raise CalledOff(f"mirror {name} is not in sync")

    async def write_out(self) -> None:
        """fsync on both sides: only what the guest writes meanwhile is left for the pause."""
        here = asyncio.to_thread(manifest.fsync, self.parameters.images)
        await asyncio.gather(here, self.ask("fsync", 60))

    async def send_ram(self) -> None:
        """Precopy until what is left fits the allowed downtime; ends with the guest paused."""
        stream = await channel.call(self.parameters.ram)
        if not self.parameters.live:
            self.journal.write("pausing")
            await self.guest.execute("stop")
        self.journal.write("migrating", offset=self.clock_offset)
        with stream:
            await migration.send(self.guest, stream, channel.meeting(self.parameters.ram))
        await self.check_devices()
        deadline = time.monotonic() + self.parameters.deadline_s
        writing: asyncio.Task[None] | None = None
        while await self.precopy_goes_on():
            self.check_window(RESERVE_S)
            if self.passes >= 2 and writing is None:
                writing = asyncio.create_task(self.write_out_and_allow_switch())
            if writing is not None and writing.done():
                writing.result()
            if time.monotonic() > deadline:
                raise CalledOff(f"the RAM did not converge within {self.parameters.deadline_s:g} s")
        self.check_window(RESERVE_S)

    def check_window(self, reserve_s: float) -> None:
        """No switchover outside of the job's window."""
        if self.parameters.closes_at is not None and uptime() > self.parameters.closes_at - reserve_s:
            raise WindowClosed("its window closed before the switchover")

    async def write_out_and_allow_switch(self) -> None:
        """From then on QEMU may stop the guest as soon as what is left fits the allowed downtime."""
        await self.write_out()
        self.may_switch = True
        await self.guest.execute("migrate-set-parameters", downtime_limit=self.terms.max_downtime_ms)

    async def check_devices(self) -> None:
        """QEMU refuses hot-plug from `migrate` on, so what is there now is what will be sent."""
        present = await block.device_names(self.guest)
        if present != self.parameters.devices:
            raise CalledOff("a device was plugged or unplugged since the preflight")

    async def precopy_goes_on(self) -> bool:
        """Wait for the next event or a moment; False once the guest is paused at pre-switchover."""
        try:
            async with asyncio.timeout(0.2):
                event = await self.events.get()
        except TimeoutError:
            event = None
        if time.monotonic() > self.report_at:
            await self.report()
        await self.obey()
        self.check_peer()
        return not await self.handle(event)

    async def obey(self) -> None:
        """Go on by what the worker says that holds now."""
        now, former = Terms.load(self.parameters.terms_file) or self.terms, self.terms
        self.terms, changed = now, dict[str, int]()
        if now.give_up:
            raise GivenUp(now.give_up)
        if now.bandwidth_bytes_per_s != former.bandwidth_bytes_per_s:
            changed["max_bandwidth"] = now.bandwidth_bytes_per_s or UNLIMITED
        if self.may_switch and now.max_downtime_ms != former.max_downtime_ms:
            changed["downtime_limit"] = now.max_downtime_ms
        if changed:
            await self.guest.execute("migrate-set-parameters", **changed)

    async def handle(self, event: Any) -> bool:
        """Handle an event; True at pre-switchover. Without one, query the state: events may be lost silently."""
        if event is None:
            status = (await self.guest.query("query-migrate"))["status"]
        elif event["event"] == "MIGRATION":
            status = event["data"]["status"]
        else:
            self.check_event(event)
            if event["event"] == "STOP" and self.parameters.live:
                await self.check_guest({"running", *migration.STOPPED_BY_MIGRATION})
            return False
        if status in migration.GONE | {"failing", "cancelling"}:
            raise CalledOff(f"QEMU gave the RAM migration up: {await self.why_failed()}")
        if status in {"pre-switchover", "device"}:
            self.pre_switchover_at = time.time()
            self.journal.write("pre-switchover")
            return True
        return False

    async def check_guest(self, allowed: set[str]) -> None:
        """A guest that its owner paused, or that stopped by itself, must not be resumed at the destination.

        A `stop` that QEMU carries out in the last milliseconds before it stops the guest itself goes unnoticed.
        """
        runstate = (await self.guest.query("query-status"))["status"]
        if runstate not in allowed:
            raise CalledOff(f"the guest does not run: it is {runstate}")

    def check_event(self, event: Any) -> None:
        """STOP gives the moment from which the guest is paused; what it or a mirror cannot survive ends the attempt."""
        if event["event"] == "STOP":
            self.stopped_at = migration.event_time(event)
        if event["event"] == "MIGRATION_PASS":
            self.passes = int(event["data"]["pass"])
        if event["event"] == "BLOCK_JOB_ERROR":
            raise CalledOff(f"a mirror failed while the RAM was being sent: {event['data']}")
        if event["event"] == "SHUTDOWN":
            raise CalledOff("the guest was powered off")

    async def why_failed(self) -> str:
        """QEMU's own text."""
        reply = await self.guest.query("query-migrate")
        return f"{reply.get('status')}: {reply.get('error-desc', 'no reason given')}"

    async def report(self) -> None:
        """Keep the progress for the next beat; the worker reads it from there."""
        self.journal.progress = migration.ram_progress(await self.guest.query("query-migrate"))
        self.report_at = time.monotonic() + REPORT_S

    async def end_mirrors(self) -> None:
        """The guest is paused: both sides of every mirror become equal and stay so."""
        self.drain_events()
        with self.timed("mirror_end"):
            await block.end_mirrors(self.guest, self.parameters.mirrors, SLOW_S, self.check_peer)
        with self.timed("nbd_close"):
            await self.guest.execute_each("blockdev-del", ({"node_name": node} for node in self.parameters.nodes))

    def drain_events(self) -> None:
        """STOP may be queued behind the event that ended the wait."""
        for event in self.events.clear():
            self.check_event(event)

    async def complete_ram(self) -> None:
        """Send the device state; `completed` means that the destination holds everything."""
        self.journal.write("continuing")
        with self.timed("device_state"):
            await self.guest.execute("migrate-continue", state="pre-switchover")
            async with asyncio.timeout(SLOW_S + self.terms.max_downtime_ms / 1000):  # the rest of the RAM as well
                while (await self.migration_status()) != "completed":
                    self.check_peer()

    async def migration_status(self) -> str:
        """The next status QEMU reports, asked for when no event comes."""
        try:
            async with asyncio.timeout(0.05):
                event = await self.events.get()
            status = str(cast("dict[str, str]", event["data"])["status"]) if event["event"] == "MIGRATION" else ""
        except TimeoutError:
            status = str((await self.guest.query("query-migrate", timeout_s=1.0))["status"])
        if status in migration.GONE | {"failing", "cancelling"}:
            raise CalledOff(f"QEMU gave the switchover up: {await self.why_failed()}")
        return status

    async def let_run(self) -> None:
        """The point of no return."""
        self.check_window(LAST_RESERVE_S)
        self.journal.write("run")
        reply = await self.line.ask("run", SLOW_S)
        resumed_at = reply["resumed_at"] - self.clock_offset
        downtime_ms = 1000 * (resumed_at - self.stopped_at)
        self.phases |= {"stop": 1000 * (self.pre_switchover_at - self.stopped_at)}
        self.phases |= reply.get("phases", {})  # the version before this one sends none
        self.phases["messages"] = downtime_ms - sum(self.phases.values())
        await self.look_back()
        self.journal.write(
            "resumed",
            stopped_at=self.stopped_at,
            resumed_at=resumed_at,
            downtime_ms=round(downtime_ms, 3),
            phases={name: round(ms, 3) for name, ms in self.phases.items()},
            ram=migration.ram_progress(await self.guest.query("query-migrate")),
        )

    async def look_back(self) -> None:
        """What the images are that the guest has just left: QEMU has let go of them, and nobody writes to them now.

        The guest runs over there already. Without this it cannot come back by what has changed.
        """
        with contextlib.suppress(DroverError, OSError):
            left = await asyncio.to_thread(lambda: {path: evidence.of(Path(path)) for path in self.parameters.images})
            self.journal.write("left", images={path: asdict(seen) for path, seen in left.items() if seen is not None})

    def timed(self, phase: str) -> Timer:
        """Give every millisecond of the pause a name, see `models.job.DOWNTIME_PHASES`."""
        return Timer(self.phases, phase)


async def hand_over(parameters: SourceParameters) -> None:
    """Run one attempt to its end and write into the journal who owns the guest: `resumed`, `kept` or `lost`."""
    journal = Journal(Path(parameters.journal))
    journal.write("started", pid=os.getpid())
    try:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(journal.beating())
            guest = await stack.enter_async_context(connect(parameters.qmp))
            await _attempt(parameters, journal, guest)
    except (DroverError, OSError) as error:  # the monitor is gone: the worker looks at what became of QEMU
        journal.write("lost", reason=str(error))


async def _attempt(parameters: SourceParameters, journal: Journal, guest: Monitor) -> None:
    try:
        line = Channel(await channel.call(parameters.switchover))
        source = Source(parameters, journal, guest, line)
        pinging = asyncio.create_task(source.keep_pinging())
        try:
            await source.hand_over()
        finally:
            pinging.cancel()
            line.close()
    except (DroverError, OSError) as error:  # a time-out is one, too
        await _keep(parameters, journal, guest, error)


async def _keep(parameters: SourceParameters, journal: Journal, guest: Monitor, error: Exception) -> None:
    """Called off: the guest goes on here, unless the destination may have been told to run it."""
    if journal.state().committed:
        journal.write("lost", reason=f"no answer from the destination after run: {error}")
        return
    await go_on_here(guest, journal, parameters.nodes)
    why = {"window_closed": isinstance(error, WindowClosed), "given_up": isinstance(error, GivenUp)}
    journal.write("kept", reason=str(error), **why)


async def go_on_here(guest: Monitor, journal: Journal, nodes: Sequence[str]) -> None:
    """Call the attempt off and resume the guest here. No other process acts on it, and nobody has told the destination
    to run it.

    Written down before it goes on: from then on what the destination holds is out of date.
    """
    journal.write("keeping")
    await migration.cancel(guest, nodes, paused_by_us=journal.state().paused_guest)
