"""RAM migration by QMP: capabilities, listening, watching, cancelling, resuming.

Capabilities and parameters are taken from what the peer offers, never from its version.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drover.errors import DroverError, Transient
from workers.process import sockets
from workers.qemu import block
from workers.qemu.monitor import Monitor, MonitorLost

MIB = 1 << 20
MEETING_S = 5.0
GOES_ON_S = 15.0
RESUMES_WITHIN_S = 10.0
NEUTRAL = {"tls-creds": "", "mode": "normal", "avail-switchover-bandwidth": 0, "zero-page-detection": "multifd"}
"""Parameters as they are if nobody has set them. Else QEMU looks for keys that are not there, has the guest stand still
from the beginning on, takes the link for slower than it is, or sends pages that hold nothing (10.0.2)."""
GONE = {"none", "cancelled", "failed"}
STOPPED_BY_MIGRATION = {"postmigrate", "finish-migrate"}
STANDS_STILL = {"paused", "prelaunch"}
"""Run states of a guest that waits for `cont`; the second one if it was reset meanwhile (8.2.2, 10.0.2)."""


class NotLoaded(DroverError):
    """The incoming QEMU does not hold the complete guest."""


async def set_capabilities(monitor: Monitor, *wanted: str) -> None:
    """Switch these on where the QEMU offers them, and all others off.

    The preflight has refused a QEMU that lacks what the switchover needs. What another tool left switched on would
    change the stream, or forbid it: with `multifd` QEMU takes no connection of ours (10.0.2).
    """
    present = {entry["capability"]: entry["state"] for entry in await monitor.query("query-migrate-capabilities")}
    other = [{"capability": name, "state": not on} for name, on in present.items() if on is not (name in wanted)]
    if other:  # `-compat deprecated-input=reject` refuses to hear of deprecated ones at all
        await monitor.execute("migrate-set-capabilities", capabilities=other)


async def left_parameters(monitor: Monitor) -> dict[str, Any]:
    """What another tool has left set of `NEUTRAL`, as it has to be."""
    present = await monitor.query("query-migrate-parameters")
    return {name.replace("-", "_"): value for name, value in NEUTRAL.items() if present.get(name, value) != value}


async def prepare_incoming(monitor: Monitor, *more: str) -> None:
    """Before the RAM comes: `return-path` makes the source's `completed` mean that this side holds everything
    (reference: QEMU's docs/devel/migration/main.rst). `late-block-activate` keeps the images untouched until `cont`
    before 10.0.
    """
    await set_capabilities(monitor, "events", "return-path", "late-block-activate", *more)


async def receive(monitor: Monitor, stream: socket.socket) -> None:
    """Take the RAM in from this connection. Not blocking, so that a silent peer never holds up QEMU's main loop:
    `getfd` makes it block again (10.0.2), so it is set afterwards.
    """
    await monitor.give("drover-ram", stream.fileno())
    stream.setblocking(False)
    await monitor.execute("migrate-incoming", uri="fd:drover-ram")


async def send(monitor: Monitor, stream: socket.socket, meeting: Path) -> None:
    """Begin to send the RAM over this connection, not blocking likewise.

    A monitor behind TCP takes no open file: QEMU meets this process at a socket, in a folder that it reaches.
    """
    if not monitor.takes_files:
        await _send_through_us(monitor, stream, meeting)
        return
    await monitor.give("drover-ram", stream.fileno())
    stream.setblocking(False)
    await monitor.execute("migrate", uri="fd:drover-ram")


async def _send_through_us(monitor: Monitor, stream: socket.socket, meeting: Path) -> None:
    """Copy what QEMU sends into the connection, and what comes back. That is over once QEMU says `completed`."""
    meeting.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(meeting))
        try:
            meeting.chmod(0o666)  # whoever it is is looked at
            listening.listen()
            listening.setblocking(False)
            await monitor.execute("migrate", uri=f"unix:{meeting}")
            async with asyncio.timeout(MEETING_S):
                qemu, _ = await asyncio.get_running_loop().sock_accept(listening)
        finally:
            meeting.unlink()
    if sockets.peer(qemu)[0] != monitor.pid:
        qemu.close()
        raise Transient("another process than the guest's QEMU came to take the RAM over")
    other = stream.dup()
    for one, two in ((qemu, other), (other, qemu)):
        one.setblocking(True)
        threading.Thread(target=_copy, args=(one, two), daemon=True).start()


def _copy(one: socket.socket, two: socket.socket) -> None:
    with contextlib.suppress(OSError):  # either was cut: QEMU says so itself
        while data := one.recv(MIB):
            two.sendall(data)
    with contextlib.suppress(OSError):
        two.shutdown(socket.SHUT_WR)


async def loaded(monitor: Monitor, timeout_s: float = 5.0) -> None:
    """Wait until this side holds the guest and does not run it.

    The source reports `completed` only when that is so; this makes sure, because `cont` sent to a QEMU that is
    still `inmigrate` would silently turn autostart on.

    Raises:
        NotLoaded: it does not.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        migrate, run = await asyncio.gather(monitor.query("query-migrate"), monitor.query("query-status"))
        status, runstate = migrate.get("status"), run["status"]
        if status == "completed" and runstate in STANDS_STILL:
            return
        if time.monotonic() > deadline:
            raise NotLoaded(f"the incoming QEMU is {status}/{runstate}")
        await asyncio.sleep(0.001)


async def resume(monitor: Monitor) -> float:
    """Resume the guest here; returns when it ran, by QEMU's own clock (seconds since 1970).

    Raises:
        Transient: QEMU does not say that it runs.
    """
    events = monitor.listen("RESUME")
    await monitor.execute("cont")
    try:
        async with asyncio.timeout(RESUMES_WITHIN_S):
            return event_time(await events.get())
    except TimeoutError:
        raise Transient(f"QEMU did not report within {RESUMES_WITHIN_S:g} s that the guest runs") from None


async def cancel(monitor: Monitor, nodes: Sequence[str], *, paused_by_us: bool) -> None:
    """End the RAM migration and make sure that the guest goes on here as before, whatever blocks the main loop.

    Only for the side that owns the guest. One that its owner paused, or that stopped by itself, stays so. A frozen
    peer blocks QEMU's main loop, so the streams are cut out of band when QEMU does not answer at once; a mirror whose
    stream was cut like that never recovers (7.2.22, 10.0.2).

    Raises:
        Transient: the guest still stands because of the migration.
    """
    try:
        await monitor.execute_if_there("migrate_cancel", timeout_s=0.5)
    except MonitorLost:
        await monitor.yank(type="migration")
        await block.cut(monitor, nodes)
    await _as_before(monitor, STOPPED_BY_MIGRATION | (STANDS_STILL if paused_by_us else set()))


async def _as_before(monitor: Monitor, ours: set[str]) -> None:
    """Until the guest is in none of our own run states; QEMU itself restores the earlier one."""
    deadline = time.monotonic() + GOES_ON_S
    while time.monotonic() < deadline:
        status = (await monitor.query("query-migrate")).get("status", "none")
        runstate = (await monitor.query("query-status"))["status"]
        over = status in GONE | {"completed"}
        if over and runstate not in ours:
            return
        if over:
            await monitor.execute_if_there("cont")  # refused until the run state has followed
        await asyncio.sleep(0.005)
    raise Transient(f"the guest does not go on at the source: {status}/{runstate}")


def event_time(event: Any) -> float:
    """When QEMU raised an event, in seconds since 1970."""
    stamp = event["timestamp"]
    return float(stamp["seconds"] + stamp["microseconds"] / 1e6)


def ram_progress(reply: dict[str, Any]) -> dict[str, Any]:
    """The part of `query-migrate` that is shown to users: bytes, rate and passes."""
    ram = reply.get("ram", {})
    return {
        "status": reply.get("status", "none"),
        "transferred": ram.get("transferred", 0),
        "remaining": ram.get("remaining", 0),
        "total": ram.get("total", 0),
        "bytes_per_s": int(ram.get("mbps", 0) * 1e6 / 8),
        "changed_per_s": ram.get("dirty-pages-rate", 0) * ram.get("page-size", 0),
        "passes": ram.get("dirty-sync-count", 0),
        "expected_downtime_ms": reply.get("expected-downtime", 0),
        "throttle_percent": reply.get("cpu-throttle-percentage", 0),
    }
