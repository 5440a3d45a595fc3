"""Which QEMUs run on this host, and which of them could be moved. Changes nothing.

One that a job is at work with is not asked: a monitor has room for one client.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy import select

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.database import transaction
from models.guest import Guest
from models.host_rpc import FindQemus, FoundMonitor, FoundQemu, FoundQemus, Inspect
from models.job import Job, unfinished
from models.preflight import Check, Verdict
from workers.guest import monitors
from workers.launcher import found
from workers.preflight import checks, inspection, live_command_line
from workers.process import processes, qemus, sockets
from workers.process.qemus import Qemu

ASKED_AT_ONCE = 4
PATIENCE_S, WITHIN_S = 8.0, 20.0
"""One that gives no answer must not hold up the others, nor many the whole answer, which is waited for 30 s."""


async def find_qemus(_: FindQemus, ours: Settings) -> FoundQemus:
    """All QEMUs of this host, by their pids."""
    running, at_work = await asyncio.to_thread(lambda: (qemus.running(ours), _at_work()))
    turn, until = asyncio.Semaphore(ASKED_AT_ONCE), time.monotonic() + WITHIN_S

    async def looked_at(qemu: Qemu) -> FoundQemu | None:
        async with turn:
            return await _looked_at(qemu, at_work, ours, until)

    seen = await asyncio.gather(*map(looked_at, running))
    return FoundQemus(qemus=tuple(one for one in seen if one is not None))


def _at_work() -> Mapping[str | int, int]:
    """The jobs that have not ended, by the process of their guest at the source and by their own number."""
    with transaction() as session:
        rows = session.execute(select(Job.id, Guest.process).join(Guest, Guest.name == Job.guest).where(unfinished()))
        return {key: number for number, process in rows for key in (number, process) if key is not None}


async def _looked_at(qemu: Qemu, at_work: Mapping[str | int, int], ours: Settings, until: float) -> FoundQemu | None:
    """None: it has ended meanwhile."""
    with suppress(OSError):
        seen = await asyncio.to_thread(_by_the_kernel, qemu)
        job = at_work.get(seen.process, at_work.get(qemu.seen.job or 0))
        return seen.model_copy(update={"job": job} if job is not None else await _asked(qemu, seen, ours, until))
    return None


def _by_the_kernel(qemu: Qemu) -> FoundQemu:
    process = qemu.process
    return FoundQemu(
        process=processes.identity(process),
        pid=process.pid,
        name=qemus.name_of(qemu.argv),
        uuid=qemus.uuid_of(qemu.argv),
        user=qemu.user,
        launcher=found.launcher_of(process),
        monitors=tuple(map(_monitor, monitors.listening(live_command_line.read(process).argv))),
    )


def _monitor(listening: monitors.Listening) -> FoundMonitor:
    holder = sockets.holder(listening.address)
    return FoundMonitor(address=listening.address, qmp=listening.control, held_by=str(holder) if holder else None)


async def _asked(qemu: Qemu, seen: FoundQemu, ours: Settings, until: float) -> dict[str, object]:
    """What QEMU itself says, by a monitor that is free."""
    if qemu.stopped:
        return {
            "checks": (
                checks.process.FROZEN.found(f"a signal has stopped it: `kill -CONT {qemu.process.pid}`", remedy=""),
            )
        }
    free = next((monitor.address for monitor in seen.monitors if monitor.qmp and monitor.held_by is None), None)
    if free is None:
        return {"checks": (_without_monitor(seen.monitors),)}
    if processes.sees_otherwise(qemu.process, free):
        return {"checks": (checks.process.OWN_ROOT.of(f"its monitor {free}"),)}
    patience_s = min(PATIENCE_S, until - time.monotonic())
    if patience_s <= 0:
        return {"checks": (checks.process.NOT_ASKED.found("there was no time left to ask it: others gave no answer"),)}
    try:
        async with asyncio.timeout(patience_s):
            inspected = await inspection.inspect(Inspect(qmp=free), ours)
    except TimeoutError:
        return {"checks": (checks.process.FROZEN.found(f"it gave no answer at {free} within {patience_s:.0f} s"),)}
    except PreconditionFailed as error:
        return {"checks": (checks.process.FROZEN.found(str(error)),)}
    against = tuple(check for check in inspected.checks if check.verdict is Verdict.REFUSE)
    return {"qmp": inspected.qmp, "uuid": inspected.uuid, "checks": against}


def _without_monitor(there: Sequence[FoundMonitor]) -> Check:
    held = [f"{monitor.address} is held by {monitor.held_by}" for monitor in there if monitor.qmp]
    if held:
        return checks.process.MONITOR_HELD.found("; ".join(held))
    people = next((monitor.address for monitor in there if not monitor.qmp), None)
    only = f" but the human monitor {people}, by which none can be added" if people else ""
    return checks.process.NO_MONITOR.found(f"it has no QMP monitor that listens{only}")
