"""A guest's launcher at the source keeps still once the guest may go, and goes on if the guest stays after all.

Of a unit of systemd this is one file, which adds to the unit: it is not restarted, and a start is refused for as long
as the file is there, at boot as well. The guest runs on meanwhile. Whether the unit is enabled is not touched.
Other launchers are told by a program of the administrator's, if the policy names one.
"""

import asyncio
import json
import logging
import signal
import subprocess
from pathlib import Path

from drover.errors import Fatal, Transient
from drover.settings import Settings
from models.launcher import Launcher, LauncherKind
from workers.images.manifest import write_durably
from workers.launcher import found, systemd
from workers.preflight import checks
from workers.process.environment import handed_on
from workers.process.machine import boot
from workers.step import Context
from workers.trust import policy

log = logging.getLogger(__name__)

DROP_IN = "zz-drover-moved"
RECORD = "stilled.json"
"""In the job's folder: who was told, written before."""
PROGRAM_S = 30.0
STARTS_ANEW = frozenset({"always"})
"""Restart policies by which systemd would have started the guest again, however it ended."""


def program(settings: Settings) -> Path | None:
    """What tells launchers other than systemd, as this host's administrator says."""
    return policy.of(settings).launcher


async def keep_still(ctx: Context, *, whatever_it_is: bool = False) -> Launcher | None:
    """Tell the launcher of the guest here to keep still; returns it, or None if the guest's QEMU has ended.

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
        await asyncio.to_thread(_still, ctx, launcher, told)
    elif launcher.stays and not (whatever_it_is or accepted):
        raise Fatal(checks.LAUNCHER_STAYS.found(launcher.stays).sentence)
    return launcher


def _still(ctx: Context, launcher: Launcher, told: Path | None) -> None:
    write_durably(ctx.directory.path / RECORD, json.dumps({"kind": launcher.kind, "unit": launcher.name}))
    if launcher.kind is not LauncherKind.UNIT or launcher.name is None:
        _run(told, "still", ctx)
        return
    file = systemd.drop_in(launcher.name, DROP_IN)
    systemd.add(file, _unwanted(ctx, file))
    log.info("%s keeps still from now on: %s", launcher.name, file)


def _unwanted(ctx: Context, file: Path) -> str:
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


async def go_on(ctx: Context) -> None:
    """Take it back: the guest stays here. If it ended meanwhile, its unit does what it would have done.

    Raises:
        Transient: the launcher could not be told.
    """
    record = ctx.directory.path / RECORD
    if not record.exists():
        return
    ctx.guard()
    told = json.loads(record.read_text())
    if told["kind"] == LauncherKind.UNIT:
        await asyncio.to_thread(_wanted_again, ctx, told["unit"])
    else:
        await asyncio.to_thread(_run, program(ctx.settings), "again", ctx)
    record.unlink()


def halt_scripts(ctx: Context, launcher: Launcher) -> None:
    """Stop the scripts of the guest's own unit that wait for the end of its QEMU: they act on it no more."""
    if launcher.kind is LauncherKind.UNIT:
        for script in found.above_in_its_unit(ctx.source_process):
            ctx.guard()
            script.signal(signal.SIGSTOP)


def end_scripts(ctx: Context) -> None:
    """Once the QEMU has ended: nothing is left in the unit that was told to keep still."""
    record = ctx.directory.path / RECORD
    if record.exists() and (told := json.loads(record.read_text()))["kind"] == LauncherKind.UNIT:
        ctx.guard()
        systemd.ask("kill", "--signal=SIGKILL", "--", told["unit"])  # it refuses where nothing is left


def _wanted_again(ctx: Context, unit: str) -> None:
    systemd.take_away(systemd.drop_in(unit, DROP_IN))
    launcher = ctx.source.launcher
    if launcher is None or launcher.name != unit or ctx.source_alive:
        return
    rebooted = not (ctx.source.process or "").startswith(boot())
    if launcher.restart in STARTS_ANEW or (rebooted and launcher.wanted):
        log.info("%s is started: its guest ended during the move, which was rolled back", unit)
        systemd.tell("start", "--no-block", "--", unit)


def _run(told: Path | None, what: str, ctx: Context) -> None:
    """The administrator's program: `PROGRAM still|again GUEST`."""
    if told is None:
        raise Fatal(f"the policy names no `launcher` any more, which was to be told {what!r} about {ctx.job.guest}")
    try:
        done = subprocess.run(
            [str(told), what, ctx.job.guest],
            env={**handed_on(), "DROVER_GUEST": ctx.job.guest, "DROVER_JOB": str(ctx.job.id)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PROGRAM_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Transient(f"{told} {what} {ctx.job.guest}: {error}") from error
    if done.returncode:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise Transient(f"{told} {what} {ctx.job.guest} ended with status {done.returncode}: {said}")
