"""Beside the heartbeat: which QEMUs are on this host, and whether its guests run.

That a QEMU lives, and whether a signal has stopped it, is read from the kernel each time. Its run state only QEMU
itself knows: it is asked seldom, and not while a job holds its monitor.
"""

import asyncio
import time

from sqlalchemy import func, select, update

from drover.errors import DroverError
from drover.settings import Settings
from models.database import transaction
from models.documents import SeenQemus
from models.guest import Guest
from models.host import Host
from models.job import Job, unfinished
from workers.process import processes, qemus
from workers.process.qemus import Qemu
from workers.qemu.monitor import connect

ASKED_EVERY_S = 30.0
PATIENCE_S = 2.0
_asked: dict[str, float] = {}
"""When each guest's QEMU was asked, by its process."""


def look(ours: Settings) -> None:
    """Write down which QEMUs run here, and in which run state the guests are that no job moves."""
    with transaction() as session:
        begun = session.scalars(select(func.clock_timestamp())).one()
    found = {processes.identity(qemu.process): qemu for qemu in qemus.running(ours)}
    with transaction() as session:
        seen = SeenQemus(qemus=tuple(qemu.seen for qemu in found.values()))
        session.execute(update(Host).where(Host.name == ours.host).values(qemus=seen, qemus_at=begun))
        moving = select(Job.guest).where(unfinished())
        guests = session.scalars(select(Guest).where(Guest.host == ours.host, Guest.name.not_in(moving))).all()
    for guest in guests:
        qemu = found.get(guest.process or "")
        runstate = _runstate(guest, qemu) if qemu is not None else None
        if runstate is not None and runstate != guest.runstate:
            same = (Guest.name == guest.name) & (Guest.host == guest.host) & (Guest.process == guest.process)
            with transaction() as session:
                session.execute(update(Guest).where(same).values(runstate=runstate))


def _runstate(guest: Guest, qemu: Qemu) -> str | None:
    """None: it is asked later, and nothing is changed."""
    if qemu.stopped:
        return "paused"
    process = guest.process or ""
    if time.monotonic() < _asked.get(process, float("-inf")) + ASKED_EVERY_S:
        return None
    _asked[process] = time.monotonic()
    return asyncio.run(_asked_state(guest.qmp))


async def _asked_state(qmp: str) -> str | None:
    """None: somebody else holds its monitor, or it gives no answer."""
    try:
        async with connect(qmp, timeout_s=PATIENCE_S) as monitor:
            return str((await monitor.query("query-status", timeout_s=PATIENCE_S))["status"])
    except DroverError:
        return None
