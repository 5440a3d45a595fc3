"""`python -m tests.deaths_amid_units`: what a step does about units is killed at each effect, where systemd runs.

Each part of a guest's life with its units is done by a process that is killed right after its nth effect, for every n:
to tell systemd something, to put a file in its place or to take one away. Another process does it again, and then all
is as that part is to leave it.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from drover.settings import settings
from models.documents import MigrationOptions
from models.job import Job, Side
from models.plan import Plan
from tests import factories
from tests.documents import destination_plan, inspection
from workers import files
from workers.guest import incoming_qemu
from workers.launcher import found, inhibitor, systemd, units
from workers.process.processes import Process
from workers.step import Context
from workers.trust import held_plan

GUEST = "tried"
FORMER, OURS = f"{GUEST}.service", units.of(GUEST)
UNIT = """\
[Service]
ExecStart=/usr/bin/sleep infinity
Restart=always
RestartSec=100ms
"""
EFFECTS = {"subprocess.Popen", "os.rename", "os.remove"}
"""As Python's own audit events are called."""
KEPT_STILL = {"Restart": "no", "ActiveState": "active", "NeedDaemonReload": "no"}
AS_EVER = {"Restart": "always", "ActiveState": "active", "NeedDaemonReload": "no"}
NOT_HERE = {"ActiveState": "inactive", "UnitFileState": "disabled", "DropInPaths": "", "NeedDaemonReload": "no"}
WAITS = {"ActiveState": "active", "UnitFileState": "disabled", "Restart": "no", "NeedDaemonReload": "no"}
LIVES = {"ActiveState": "active", "UnitFileState": "enabled", "Restart": "always", "NeedDaemonReload": "no"}
LEAVES = LIVES | {"Restart": "no"}


def context(job: int, launcher: Process) -> Context:
    """Of a step of a job that no database knows, about the guest that this process launched, or is."""
    moved = Job(id=job, guest=GUEST, source="one", destination="two", options=MigrationOptions(), kept_by_source=False)
    ctx = Context(claim=factories.offline_claim(moved, "cutover", Side.DESTINATION), settings=settings())
    if ctx.held is None:
        files.private_folder(ctx.directory.path)
        seen = inspection(
            pid=launcher.pid, started=launcher.started, launcher=found.launcher_of(launcher), disks=(), qmp="/nowhere"
        )
        monitor = ctx.directory.path / "qmp"
        argv = ["/usr/bin/qemu-system-x86_64", "-M", "none", "-display", "none", "-S", "-incoming", "defer"]
        argv += ["-qmp", f"unix:{monitor},server=on,wait=off"]
        there = destination_plan(argv=tuple(argv), qmp=str(monitor), disks=())
        held_plan.hold(ctx.directory.path, Plan(source=seen, destination=there))
    return ctx


def running(unit: str) -> Process:
    """What runs in a unit."""
    process = units.running(unit)
    assert process is not None, f"nothing runs in {unit}"
    return process


def inhibit(ctx: Context) -> None:
    asyncio.run(inhibitor.inhibit(ctx))


def lift(ctx: Context) -> None:
    asyncio.run(inhibitor.lift(ctx))


def spawn(ctx: Context) -> None:
    asyncio.run(incoming_qemu.spawn(ctx))


def roll_back(ctx: Context) -> None:
    asyncio.run(incoming_qemu.stop(ctx))
    units.take_back(ctx)


def clear_away(ctx: Context) -> None:
    """As the source's `cleanup` does once images are set aside."""
    units.leave(ctx)
    ctx.source_process.kill()
    inhibitor.end_scripts(ctx)
    units.left(ctx)


def done(part: Callable[[], None], dies_at: int | None = None) -> bool:
    """In a process of its own; whether it was killed there, at 1 before it had any effect."""
    child = os.fork()
    if not child:
        _be_done(part, dies_at)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, -signal.SIGKILL if dies_at else 0}, f"it ended with {status}"
    return status != 0


def _be_done(part: Callable[[], None], dies_at: int | None) -> None:
    left, changed = dies_at, True

    def happens(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left, changed
        if left is None or event not in EFFECTS:
            return
        left -= changed  # what only asks leaves all as it was
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        changed = event != "subprocess.Popen" or "show" not in arguments[1]

    sys.addaudithook(happens)
    try:
        part()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def is_now(unit: str, wanted: Mapping[str, str], when: str) -> None:
    told = systemd.properties(unit, list(wanted))
    assert told == wanted, f"{when}: {unit} is {told}, and not {wanted}"


def life(dies_at: int) -> bool:
    """One guest's, there and away again; whether any part of it was killed there."""
    killed = False

    def part(ctx: Context, does: Callable[[Context], None], **leaves: Mapping[str, str]) -> None:
        nonlocal killed
        when = f"{does.__name__} after a death at effect {dies_at}"
        if done(partial(does, ctx), dies_at):
            killed = True
            done(partial(does, ctx))
        for unit, wanted in leaves.items():
            is_now({"former": FORMER, "ours": OURS}[unit], wanted, when)

    there = context(2 * dies_at, running(FORMER))
    part(there, inhibit, former=KEPT_STILL)
    part(there, lift, former=AS_EVER)
    if done(partial(spawn, there), dies_at):
        done(partial(roll_back, there))
        is_now(OURS, NOT_HERE, f"rolled back after a death at effect {dies_at} of spawn")
    part(there, spawn, ours=WAITS)
    part(there, roll_back, ours=NOT_HERE)
    part(there, spawn, ours=WAITS)
    part(there, units.settle, ours=LIVES)
    away = context(2 * dies_at + 1, running(OURS))
    part(away, inhibit, ours=LEAVES)
    part(away, units.leave, ours=LEAVES)
    part(away, units.come_back, ours=LEAVES)
    part(away, lift, ours=LIVES)
    part(away, inhibit, ours=LEAVES)
    part(away, clear_away, ours=NOT_HERE)
    assert not units._cold(away).exists()
    for ctx in (there, away):
        ctx.directory.remove()
    return killed


def main() -> None:
    """Until no part has so many effects."""
    Context.tell = lambda *_: None  # type: ignore[method-assign]
    unit = systemd.UNITS / FORMER
    unit.write_text(UNIT)
    systemd.tell("daemon-reload")
    systemd.tell("start", "--", FORMER)
    dies_at = 1
    while life(dies_at):
        dies_at += 1
    systemd.tell("stop", "--", FORMER)
    unit.unlink()
    systemd.tell("daemon-reload")
    print(dies_at - 1)


if __name__ == "__main__":
    main()
