"""Starting and stopping a guest that lives here, and looking whether it runs here. Each is a question to this host.

What is started is the host's own launch file and nothing else: no row and no message says what runs.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from drover.errors import PreconditionFailed, StepError
from drover.settings import Settings
from models.documents import SeenQemu
from models.host_rpc import LookForGuest, Sighting, StartGuest, StopGuest
from models.launch_file import LaunchFile
from workers.guest.qmp_ready import monitor_ready
from workers.launcher import found, run, systemd, units, whereabouts
from workers.process import processes, qemus, vcpus
from workers.process.processes import Process
from workers.qemu.monitor import connect


async def look(question: LookForGuest, settings: Settings) -> Sighting:
    """Whether a QEMU of this guest is alive here."""
    return await asyncio.to_thread(_seen, question, settings)


def _seen(question: LookForGuest, settings: Settings) -> Sighting:
    launch = units.launch_file(question.guest, settings) is not None
    for qemu in qemus.running(settings):
        if _is(qemu.seen, question):
            return Sighting(launch_file=launch, pid=qemu.process.pid, process=qemu.seen.process)
    return Sighting(launch_file=launch)


def _is(qemu: SeenQemu, of: LookForGuest) -> bool:
    """The process that it was known by, or one with its UUID, or with its name where one of the two has no UUID."""
    if of.process == qemu.process:
        return True
    if of.uuid and qemu.uuid:
        return qemu.uuid == of.uuid.lower()
    return qemu.name == of.guest


async def start(question: StartGuest, settings: Settings) -> Sighting:
    """Start the guest cold, by its launch file, unless it runs. The asker has made sure that it runs nowhere else.

    Raises:
        PreconditionFailed: it does not live here, runs already, or does not start.
    """
    guest = question.guest
    with _alone(guest, settings):
        launch = units.launch_file(guest, settings)
        if launch is None:
            raise PreconditionFailed(
                f"{guest} has no launch file on {settings.host}, for no move of this version brought it there: "
                "start it as it was started before, then "
                f"`drover guest adopt {guest} --host {settings.host} --qmp SOCKET`"
            )
        if (there := await asyncio.to_thread(whereabouts.elsewhere, guest, settings.host)) is not None:
            raise PreconditionFailed(f"{guest} lives on {there}, not on {settings.host}: nothing was started")
        seen = await look(question, settings)
        if seen.pid is not None:
            raise PreconditionFailed(f"{guest} runs on {settings.host} already (pid {seen.pid})")
        try:
            started = await asyncio.to_thread(_started, launch, settings)
            await monitor_ready(started, launch.qmp, Path(launch.log))
            async with connect(launch.qmp) as monitor:
                await vcpus.pin(monitor, launch.vcpus)
        except StepError as error:
            raise PreconditionFailed(f"{guest} does not start on {settings.host}: {error}") from error
        launcher = await asyncio.to_thread(found.launcher_of, started)
        return Sighting(
            launch_file=True, pid=started.pid, process=processes.identity(started), launcher=launcher, qmp=launch.qmp
        )


@contextmanager
def _alone(guest: str, settings: Settings) -> Iterator[None]:
    """One start of this guest at a time, on this host."""
    lock = run.launch_file(guest, settings.directory).with_suffix(".lock")
    try:
        with FileLock(lock, mode=0o600, blocking=False):
            yield
    except Timeout:
        raise PreconditionFailed(f"{guest} is being started on {settings.host} already") from None


def running(guest: str, settings: Settings) -> Process | None:
    """The guest's QEMU that its unit or its launch file has started here."""
    if units.available():
        return units.running(units.of(guest))
    return processes.one(_mark(guest, settings))


def _mark(guest: str, settings: Settings) -> str:
    return f"{settings.directory}/launch/{guest}"


def _started(launch: LaunchFile, settings: Settings) -> Process:
    if not units.available():
        return processes.spawn(_mark(launch.guest, settings), launch.argv, Path(launch.log))
    unit = units.of(launch.guest)
    systemd.ask("reset-failed", "--", unit)
    systemd.tell("start", "--", unit)
    return units.main_process(unit, Path(launch.log))


async def stop(question: StopGuest, settings: Settings) -> Sighting:
    """Ask the guest to power off; does not wait until it has.

    Raises:
        PreconditionFailed: it does not run here, was not launched by Drover, or cannot be asked.
    """
    guest = question.guest
    seen, launch = await look(question, settings), units.launch_file(guest, settings)
    if seen.pid is None:
        raise PreconditionFailed(f"{guest} does not run on {settings.host}")
    if launch is None:
        raise PreconditionFailed(
            f"{guest} was not launched by Drover on {settings.host}: stop it as it was started, or power it off"
        )
    if await asyncio.to_thread(_stopped_by_its_unit, guest, seen.pid):
        return seen
    try:
        async with connect(launch.qmp) as monitor:
            await monitor.execute("system_powerdown")
    except StepError as error:
        raise PreconditionFailed(f"{guest} was not asked to power off, and runs on: {error}") from error
    return seen


def _stopped_by_its_unit(guest: str, pid: int) -> bool:
    """The unit asks it to power off; false: it runs in none of ours."""
    if not units.available() or systemd.main_pid(units.of(guest)) != pid:
        return False
    systemd.tell("stop", "--no-block", "--", units.of(guest))
    return True
