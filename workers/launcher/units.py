"""Where a guest lives after its move: a unit of its own on this host, and a launch file.

`drover-guest@GUEST.service` starts the incoming QEMU of a move, so that the guest's process is systemd's from its first
moment and outlives the worker. It has the limits of the guest's former unit. Once the guest runs here, its launch file
is written, and the unit restarts it as the former one did, and starts it at boot. Where there is no systemd, or the
template is not installed, the QEMU is a process of its own as before; the launch file is there all the same.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from drover import names
from drover.errors import Fatal, Transient
from drover.settings import Settings
from models.launch_file import LaunchFile
from models.launcher import Launcher, LauncherKind, Limits
from models.preflight import Check
from workers import files
from workers.files import write_durably
from workers.launcher import inhibitor, run, systemd
from workers.launcher.found import OURS
from workers.preflight import checks
from workers.process import execution, processes, qemus, tpm
from workers.process.environment import handed_on
from workers.process.processes import Process
from workers.qemu.options import command_words, parse_command_line
from workers.step import Context
from workers.trust import policy

SETTINGS = "50-drover"
"""The file that adds to a guest's unit what this guest needs."""
TAKEN_WITHIN_S = 60.0
FAILED_ONLY = "on-failure"
POLICIES = frozenset({"no", "always", "on-success", "on-failure", "on-abnormal", "on-abort", "on-watchdog"})


def of(guest: str) -> str:
    """The unit of a guest that was moved here."""
    names.check(guest, "a guest")
    return f"{OURS}{guest}.service"


def available() -> bool:
    """Whether this host has systemd, and the template is installed."""
    return systemd.booted() and systemd.properties(of("any"), ["LoadState"]).get("LoadState") == "loaded"


def limits_left(launcher: Launcher | None) -> list[Check]:
    """The limits of the guest that nothing would set here."""
    limits = launcher.limits if launcher is not None else Limits()
    found = []
    if limits.any and not available():
        found.append(
            checks.process.NO_LIMITS.found("its limits of memory and CPU are not set here: no unit for guests is here")
        )
    if limits.devices:
        seen = f"its limits of single block devices are not set here ({'; '.join(limits.devices)})"
        found.append(checks.process.NO_LIMITS.found(seen, remedy="set them by hand after the move"))
    return found


def start_incoming(ctx: Context, output: Path) -> Process:
    """Start the incoming QEMU of a move; no other one of this job lives.

    Raises:
        Fatal: it ended at once, or another one runs in the guest's unit.
        Transient: systemd did not start it.
    """
    mark, argv = ctx.directory.mark("incoming"), ctx.destination.argv
    _cold(ctx).unlink(missing_ok=True)  # it lives elsewhere: this host was fenced when it left
    if ctx.destination.tpm is not None:
        tpm.prepare(ctx.destination.tpm)
    if not available():
        return processes.spawn(mark, _launched(ctx, argv), output)
    unit, incoming = of(ctx.job.guest), _incoming(ctx)
    _end_begun(ctx)
    files.private_folder(output.parent)
    write_durably(incoming, json.dumps(_launch(ctx, argv, output, processes.named(mark)).json_object()))
    systemd.drop_in(unit, inhibitor.DROP_IN).unlink(missing_ok=True)  # it has left this host before, and comes back
    systemd.add(systemd.drop_in(unit, SETTINGS), _settings(ctx.source.launcher, restart="no"))
    systemd.ask("reset-failed", "--", unit)
    before = systemd.properties(unit, ["InvocationID"])
    systemd.tell("start", "--", unit)
    if systemd.properties(unit, ["InvocationID"]) == before:
        incoming.unlink(missing_ok=True)
        raise Fatal(f"{unit} runs on {ctx.job.destination} already, although {ctx.job.guest} lives elsewhere: end it")
    started = main_process(unit, output)
    if not _becomes_incoming(ctx, started):
        incoming.unlink(missing_ok=True)
        raise _ended_at_once(output)
    return started


def _becomes_incoming(ctx: Context, begun: Process) -> bool:
    """A unit counts as started before its process has read what it is to become; false: it has ended instead."""
    deadline = time.monotonic() + TAKEN_WITHIN_S
    while processes.mark_of(begun) != ctx.directory.mark("incoming"):
        if not begun.alive:
            return False
        if time.monotonic() > deadline:
            raise Transient(f"the unit's process (pid {begun.pid}) did not become a QEMU within {TAKEN_WITHIN_S:g} s")
        time.sleep(0.02)
    return True


def _end_begun(ctx: Context) -> None:
    """End what a worker that died right then has started: it is about to become the incoming QEMU of this job."""
    begun = running(of(ctx.job.guest)) if systemd.booted() else None
    qemu = qemus.qemu_of(begun.pid) if begun is not None else None
    another = qemu is not None and qemu.mark != ctx.directory.mark("incoming")
    if begun is not None and not another and _becomes_incoming(ctx, begun):
        begun.kill()


def main_process(unit: str, output: Path) -> Process:
    """What was just started in a unit.

    Raises:
        Fatal: it has ended already; the text holds the end of its log.
    """
    started = running(unit)
    if started is None:
        raise _ended_at_once(output)
    return started


def _ended_at_once(output: Path) -> Fatal:
    return Fatal(f"it ended at once: {processes.log_tail(output)}")


def running(unit: str) -> Process | None:
    """What runs in a unit."""
    pid = systemd.main_pid(unit)
    return processes.process(pid) if pid else None


def settled(ctx: Context) -> bool:
    """The guest's launch file is that of this job."""
    launch = launch_file(ctx.job.guest, ctx.settings)
    return launch is not None and launch.job == ctx.job.id


def settle(ctx: Context) -> None:
    """The guest runs here: from now on it may be started here, cold.

    Raises:
        Transient: systemd does not take it.
    """
    ctx.guard()
    if available():
        _restart_as_before(ctx)
    launch = _launch(ctx, _without_incoming(ctx.destination.argv), ctx.directory.incoming_log(ctx.job.guest), {})
    write_durably(_cold(ctx), json.dumps(launch.json_object(), indent=1))


def _restart_as_before(ctx: Context) -> None:
    """The guest's unit is restarted as its former one was, and started at boot if that was."""
    launcher, unit = ctx.source.launcher, of(ctx.job.guest)
    systemd.add(systemd.drop_in(unit, SETTINGS), _settings(launcher, restart=_policy(launcher)))
    if launcher is None or launcher.wanted:
        systemd.tell("enable", "--quiet", "--", unit)


def take_back(ctx: Context) -> None:
    """The move is rolled back: nothing of it is left here. The QEMU has ended. Errors as for `settle`."""
    _incoming(ctx).unlink(missing_ok=True)
    _end_begun(ctx)
    take_away(ctx.job.guest)


def leave(ctx: Context) -> None:
    """The guest cannot be started here any more: it has moved away, or did not stay. Its QEMU is ended next, or was."""
    if _cold(ctx).exists():
        ctx.guard()
        _cold(ctx).replace(_former(ctx))


def come_back(ctx: Context) -> None:
    """It goes on here after all: it may be started here as before. Errors as for `settle`."""
    if _former(ctx).exists():
        ctx.guard()
        if available():
            _restart_as_before(ctx)
        _former(ctx).replace(_cold(ctx))


def _cold(ctx: Context) -> Path:
    return run.launch_file(ctx.job.guest, ctx.settings.directory)


def _incoming(ctx: Context) -> Path:
    return run.incoming_file(ctx.job.guest, ctx.settings.directory)


def _former(ctx: Context) -> Path:
    """The guest's launch file once it has left."""
    return ctx.directory.path / "launch.json"


def left(ctx: Context) -> None:
    """Its QEMU has ended: nothing of its unit is left. Errors as for `settle`."""
    ctx.guard()
    take_away(ctx.job.guest)


def take_away(guest: str) -> None:
    """A guest's unit starts nothing any more, at boot neither. Where it has none of ours nothing happens.

    Raises:
        Transient: systemd does not take it.
    """
    if not systemd.booted():
        return
    unit, added = of(guest), (SETTINGS, inhibitor.DROP_IN)
    if any(systemd.drop_in(unit, name).exists() for name in added):
        systemd.ask("disable", "--quiet", "--", unit)
    systemd.take_away(unit, *added)
    systemd.ask("reset-failed", "--", unit)  # its QEMU was ended, which is no failure


def launch_file(guest: str, settings: Settings) -> LaunchFile | None:
    """How a guest is started here; None: it does not live here, or was never moved."""
    names.check(guest, "a guest")
    cold = run.launch_file(guest, settings.directory)
    return LaunchFile.read(json.loads(cold.read_text())) if cold.exists() else None


def now(ctx: Context, qemu: Process | None) -> Launcher:
    """Who launched the guest here."""
    launcher = ctx.source.launcher or Launcher(kind=LauncherKind.NOBODY)
    if qemu is None or not available() or systemd.main_pid(of(ctx.job.guest)) != qemu.pid:
        return Launcher(kind=LauncherKind.DROVER)
    return Launcher(
        kind=LauncherKind.UNIT,
        name=of(ctx.job.guest),
        restart=_policy(launcher),
        restart_after_us=launcher.restart_after_us,
        wanted=launcher.wanted,
        limits=launcher.limits,
    )


def _launch(ctx: Context, argv: Sequence[str], output: Path, more: dict[str, str]) -> LaunchFile:
    return LaunchFile(
        guest=ctx.job.guest,
        job=ctx.job.id,
        host=ctx.settings.host,
        argv=tuple(_launched(ctx, argv)),
        qmp=ctx.destination.qmp,
        log=str(output),
        environment={**handed_on(), **more},
        vcpus=ctx.source.started_as.vcpus if ctx.source.started_as is not None else (),
    )


def _launched(ctx: Context, argv: Sequence[str]) -> list[str]:
    opens_taps = policy.of(ctx.settings).file.taps
    there = (disk for disk in ctx.disks if disk.destination_device)
    own = [disk.destination_path for disk in there if disk.volume_of or disk.destination_path.startswith("/dev/")]
    return execution.launched(argv, ctx.source.started_as, ctx.destination.tpm, opens_taps, own)


def _without_incoming(argv: Sequence[str]) -> list[str]:
    """The same machine, which boots."""
    options = [option for option in parse_command_line(argv) if option.name not in {"S", "incoming"}]
    return [argv[0], *command_words(options)]


def _policy(launcher: Launcher | None) -> str:
    """`Restart=` of the guest's unit: as of its former one."""
    if launcher is None:
        return "no"
    if launcher.kind is LauncherKind.SUPERVISOR:
        return FAILED_ONLY
    return launcher.restart if launcher.restart in POLICIES else "no"


def _settings(launcher: Launcher | None, *, restart: str) -> str:
    """What is added to the unit; all values were validated when the guest's description was read."""
    limits = launcher.limits if launcher is not None else Limits()
    pause = launcher.restart_after_us if launcher is not None else None
    lines = {
        "Restart": restart,
        "RestartSec": f"{pause}us" if pause is not None else None,
        "Slice": limits.slice,
        "MemoryMax": limits.memory_max_bytes,
        "MemoryHigh": limits.memory_high_bytes,
        "CPUQuota": f"{limits.cpu_quota_us_per_s / 10_000:g}%" if limits.cpu_quota_us_per_s else None,
        "CPUWeight": limits.cpu_weight,
        "IOWeight": limits.io_weight,
        "AllowedCPUs": limits.allowed_cpus,
        "AllowedMemoryNodes": limits.allowed_memory_nodes,
    }
    written = "".join(f"{name}={value}\n" for name, value in lines.items() if value is not None)
    return f"# Written by Drover: as the guest's former unit had it.\n[Service]\n{written}"
