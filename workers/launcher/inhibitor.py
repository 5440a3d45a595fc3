"""A guest's launcher at the source starts nothing any more once the guest may go, and may again if the guest stays.

Of a unit of systemd this is one file, which adds to the unit: it is not restarted, and a start is refused for as long
as the file is there, at boot as well. The guest runs on meanwhile. Whether the unit is enabled is not touched.
Other launchers are told by a program of the administrator's, if the policy names one.
"""

import asyncio
import logging
import signal
from collections.abc import Mapping, Set
from pathlib import Path

from drover.errors import Fatal, Transient
from drover.settings import Settings
from models.event_action import EventAction
from models.launcher import Inhibition, Launcher, LauncherKind
from workers import programs
from workers.document_file import DocumentFile
from workers.launcher import found, systemd
from workers.preflight import checks
from workers.process import processes
from workers.step import Context
from workers.trust import policy

log = logging.getLogger(__name__)

DROP_IN = "zz-drover-moved"
"""In the job's folder, an `Inhibition`: written before, read by whichever version of the worker lifts it."""
PROGRAM_S = 30.0
ABORTED = frozenset({"signal", "core-dump"})
ABNORMAL = ABORTED | {"timeout", "watchdog"}
FAILED = ABNORMAL | {"exit-code"}
STARTS_ANEW: Mapping[str, Set[str]] = {
    "always": FAILED | {"success"},
    "on-success": {"success"},
    "on-failure": FAILED,
    "on-abnormal": ABNORMAL,
    "on-abort": ABORTED,
    "on-watchdog": {"watchdog"},
}
"""After which `Result` of a unit systemd starts it again, by its `Restart` (systemd.service(5))."""


def program(settings: Settings) -> Path | None:
    """What tells launchers other than systemd, as this host's administrator says."""
    return policy.of(settings).launcher


async def inhibit(ctx: Context, *, whatever_it_is: bool = False) -> Launcher | None:
    """Keep the launcher of the guest here from starting it again; returns it, or None if the guest's QEMU has ended.

    Args:
        ctx: of a step at the source.
        whatever_it_is: a launcher that nobody can tell anything is no reason to refuse: the guest has gone already.

    Raises:
        Fatal: nobody can tell it, and that was not accepted.
        Transient: it could not be told.
    """
    if not ctx.source_alive:
        return None
    launcher = await asyncio.to_thread(found.launcher_of, ctx.source_process)
    told = program(ctx.settings) if launcher.stays else None
    accepted = ctx.job.options.launcher_stays and not any(disk.block_device for disk in ctx.source.disks)
    if launcher.kind is LauncherKind.UNIT or told:
        ctx.guard()
        unit = launcher.name if launcher.kind is LauncherKind.UNIT else None
        if _record(ctx).read() is None:
            sentence = f"{unit or launcher.sentence} is told not to start {ctx.job.guest} on {ctx.job.source} any more"
            await asyncio.to_thread(ctx.tell, EventAction.LAUNCHER, sentence)
        await asyncio.to_thread(_record(ctx).write, Inhibition(kind=launcher.kind, unit=unit))
        await (asyncio.to_thread(_mask, ctx, unit) if unit else _tell(ctx, "still"))
    elif launcher.stays and not (whatever_it_is or accepted):
        raise Fatal(checks.process.LAUNCHER_STAYS.found(launcher.stays).sentence)
    return launcher


def _record(ctx: Context) -> DocumentFile[Inhibition]:
    return DocumentFile(ctx.directory.path / "stilled.json", Inhibition)


def _mask(ctx: Context, unit: str) -> None:
    file = systemd.drop_in(unit, DROP_IN)
    systemd.add(file, _drop_in(ctx, file))
    log.info("%s is not started from now on: %s", unit, file)


def _drop_in(ctx: Context, file: Path) -> str:
    job = ctx.job
    return f"""\
# Written by Drover, job {job.id}: {job.guest} moves to {job.destination}, and a second one must not be started here.
# While this file is there every start is refused. If {job.guest} is to live here by this unit again: stop it where it
# runs, delete this file, then `systemctl daemon-reload`.
[Unit]
AssertPathExists=!{file}
[Service]
Restart=no
"""


async def lift(ctx: Context) -> None:
    """Take it back: the guest stays here. If it ended meanwhile, its unit does what it would have done.

    Raises:
        Transient: the launcher could not be told.
    """
    inhibition = _record(ctx).read()
    if inhibition is None:
        return
    ctx.guard()
    if inhibition.kind is LauncherKind.UNIT and inhibition.unit:
        await asyncio.to_thread(_unmask, ctx, inhibition.unit)
    else:
        await _tell(ctx, "again")
    who = inhibition.unit or "its launcher"
    sentence = f"{who} is told that {ctx.job.guest} stays on {ctx.job.source}: it may start it again, as before"
    await asyncio.to_thread(ctx.tell, EventAction.LAUNCHER, sentence)
    _record(ctx).remove()


def halt_scripts(ctx: Context, launcher: Launcher) -> None:
    """Stop the scripts of the guest's own unit that wait for the end of its QEMU: they act on it no more."""
    if launcher.kind is LauncherKind.UNIT:
        _signal_scripts(ctx, signal.SIGSTOP)


def _signal_scripts(ctx: Context, number: int) -> None:
    for script in found.above_in_its_unit(ctx.source_process):
        ctx.guard()
        script.signal(number)


def end_scripts(ctx: Context) -> None:
    """Once the QEMU has ended: nothing is left in the unit that must start nothing."""
    inhibition = _record(ctx).read()
    if inhibition is not None and inhibition.kind is LauncherKind.UNIT and inhibition.unit:
        ctx.guard()
        systemd.ask("kill", "--signal=SIGKILL", "--", inhibition.unit)  # it refuses where nothing is left


def _unmask(ctx: Context, unit: str) -> None:
    systemd.take_away(unit, DROP_IN)
    _signal_scripts(ctx, signal.SIGCONT)  # the clearing away after it had begun, and an operator took the guest back
    launcher = ctx.source.launcher
    if launcher is None or launcher.name != unit or ctx.source_alive:
        return
    if _would_start_it(unit, launcher, booted=processes.booted_since(ctx.source.process)):
        ctx.tell(
            EventAction.LAUNCHER, f"{unit} is started: {ctx.job.guest} ended during the move, which is rolled back"
        )
        systemd.tell("start", "--no-block", "--", unit)


def _would_start_it(unit: str, launcher: Launcher, *, booted: bool) -> bool:
    """At boot, or as its guest has ended."""
    if booted:
        return launcher.wanted
    return systemd.properties(unit, ["Result"]).get("Result") in STARTS_ANEW.get(launcher.restart or "no", ())


async def _tell(ctx: Context, what: str) -> None:
    """By the administrator's program: `PROGRAM still|again GUEST`."""
    guest, told = ctx.job.guest, program(ctx.settings)
    if told is None:
        raise Fatal(
            f"the policy of {ctx.settings.host} names no `launcher` any more, which was to be told {what!r} about "
            f"{guest}: name it again in the policy there, then `drover job retry {ctx.job.id}`"
        )
    environment = {"DROVER_GUEST": guest, "DROVER_JOB": str(ctx.job.id)}
    ended = await programs.run(told, what, guest, environment=environment, timeout_s=PROGRAM_S)
    if not ended.ok:
        raise Transient(f"{told} {what} {guest} {ended.how}")
