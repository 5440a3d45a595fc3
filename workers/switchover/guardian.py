"""The guardian of one attempt: resumes the guest at the source when the switchover process can no longer do so.

Only one process at a time acts on the guest. The switchover process does while it lives. Its guardian acts once that
process is dead, as the kernel reports. A worker acts when both are dead: it ends them first. For that both carry
one name (a forked process has its parent's environment), so a worker of any version that ends the one ends the other.
"""

import asyncio
import logging
import os
import select
import signal
import time
from pathlib import Path

from drover.errors import DroverError
from workers.qemu.monitor import connect
from workers.switchover import journal
from workers.switchover.journal import Journal, JournalState
from workers.switchover.parameters import SourceParameters
from workers.switchover.source import go_on_here

log = logging.getLogger(__name__)

NAME = "drover-guardian"
"""In /proc/PID/comm; its command line is that of the switchover process."""
LOOK_S = 0.5
SILENT_LOOKS = 5
"""After this many looks without a beat the switchover process counts as frozen. A live worker ends it earlier."""
TRIES_S, AGAIN_S = 60.0, 0.2
"""A monitor that gives no answer is asked again for this long, at this interval."""


def begin(parameters: SourceParameters) -> None:
    """Have a guardian watch this very process from now on. To be called before it has threads or an event loop."""
    guarded = os.pidfd_open(os.getpid())
    if os.fork():
        os.close(guarded)
        return
    try:
        os.setsid()
        Path("/proc/self/comm").write_text(NAME)
        guard(parameters, guarded)
    except BaseException:
        log.exception("the guardian failed")
    finally:
        os._exit(0)  # the files and exit handlers of the switchover process are not the guardian's


def guard(parameters: SourceParameters, guarded: int) -> None:
    """Wait until the process of this descriptor is dead; if it may have left the guest paused, resume it here."""
    path = Path(parameters.journal)
    _outlive(guarded, path)
    if may_be_left_paused(journal.read(path)):
        log.warning("the switchover process is dead and may have left the guest paused: resuming it at the source")
        asyncio.run(_let_go_on(parameters))


def may_be_left_paused(told: JournalState) -> bool:
    """The dead process may have left the guest paused, and the destination was not told to run it."""
    settled = told.last("kept") is not None
    return bool(told.lines) and not told.committed and not settled


def _outlive(guarded: int, path: Path) -> None:
    """Until the process is dead; one that is frozen is killed, so that its journal is final."""
    poll, seen, silent = select.poll(), 0, 0
    poll.register(guarded, select.POLLIN)
    while not poll.poll(1000 * LOOK_S):
        changed = journal.changed_at(path)
        silent = 0 if changed != seen else silent + 1  # looks, not time: the host itself may have stood still
        seen = changed
        if silent >= SILENT_LOOKS:
            signal.pidfd_send_signal(guarded, signal.SIGKILL)


async def _let_go_on(parameters: SourceParameters) -> None:
    """Cancel the attempt as the switchover process itself would have done."""
    own = Journal(Path(parameters.journal))
    deadline = time.monotonic() + TRIES_S
    async with own.beating():
        while (failed := await _call_off(parameters, own)) is not None:
            if _is_gone(failed) or time.monotonic() > deadline:
                own.write(
                    "lost", reason=f"the source's switchover process died and its guardian could not help: {failed}"
                )
                break
            await asyncio.sleep(AGAIN_S)


async def _call_off(parameters: SourceParameters, own: Journal) -> Exception | None:
    """Try it once; returns what failed."""
    try:
        async with connect(parameters.qmp) as guest:
            await go_on_here(guest, own, parameters.nodes)
            own.write("kept", reason="the source's switchover process died and its guardian resumed the guest")
    except (DroverError, OSError) as error:  # TimeoutError is an OSError
        return error
    return None


def _is_gone(error: Exception) -> bool:
    """No process listens on the monitor's socket: QEMU is dead."""
    return isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError)
