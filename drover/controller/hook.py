"""The process of one run of a hook: `python -m drover.controller.hook RUN`. It outlives the controller that started it.

It takes the run's row, runs the program within its time, says every few seconds that it lives, and writes down how the
program ended. While the database is unreachable the program goes on, and its end is written once it is there again.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from sqlalchemy.exc import SQLAlchemyError

from drover import logs, words
from drover.errors import PreconditionFailed
from drover.settings import settings
from models.database import patiently, transaction
from models.host import Host
from models.roll import OUTPUT_KEPT, HookRun, Roll
from workers.process.environment import handed_on
from workflows.roll import hooks

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL, when its time is over."""
LOOK_S = 0.1
NOT_STARTED, TIMED_OUT = None, 124
"""As the command `timeout` says it."""


def main(run_id: int) -> None:
    """Run the hook, unless another process has taken it."""
    taken = patiently(lambda: hooks.take(run_id), log.warning)
    if taken is None:
        return
    run, roll = taken
    with logs.about(roll=roll.id, host=run.host):
        code, output = _run(run, roll)
        log.info("the hook has ended with %s", code)
        patiently(lambda: hooks.end(run_id, code, output), log.warning)


def _run(run: HookRun, roll: Roll) -> tuple[int | None, str]:
    try:
        argv = [str(hooks.program(roll.hook, settings())), *roll.hook.argv[1:]]
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(run, roll),
        )
    except (PreconditionFailed, OSError) as error:
        return NOT_STARTED, str(error)
    assert child.stdout is not None
    tail = _Tail(child.stdout)
    code = _awaited(child, run.id, time.monotonic() + roll.hook.timeout_s)
    output = tail.text()
    if code is None:
        return TIMED_OUT, f"{output}\nit was ended after {words.duration(roll.hook.timeout_s)}, its time limit"
    return code, output


def environment(run: HookRun, roll: Roll) -> dict[str, str]:
    """What the hook is told. docs/reference/cli.md has the same list."""
    with transaction() as session:
        address = session.get_one(Host, run.host).address
    told = {"DROVER_ROLL": str(roll.id), "DROVER_ROLL_HOST": run.host, "DROVER_ROLL_ADDRESS": address}
    return handed_on() | told | {"DROVER_ROLL_RUN": str(run.id)}


def _awaited(child: "subprocess.Popen[bytes]", run_id: int, deadline: float) -> int | None:
    """Its exit code; None if its time was over."""
    beat_at = time.monotonic() + hooks.BEAT_S
    while child.poll() is None:
        if time.monotonic() >= deadline:
            _end(child)
            return None
        if time.monotonic() >= beat_at:
            with suppress(SQLAlchemyError):  # the database is away: the program goes on
                hooks.beat(run_id)
            beat_at = time.monotonic() + hooks.BEAT_S
        time.sleep(LOOK_S)
    return child.returncode


def _end(child: "subprocess.Popen[bytes]") -> None:
    """With all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@dataclass
class _Tail:
    """The end of what a program writes; it is never kept waiting."""

    stream: IO[bytes]
    _kept: deque[bytes] = field(default_factory=lambda: deque(maxlen=200))

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, name="output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while line := self.stream.readline(OUTPUT_KEPT):
            self._kept.append(line)

    def text(self) -> str:
        """So far; what a program that it left behind writes later is not waited for."""
        self._reader.join(1.0)
        return b"".join(list(self._kept)).decode(errors="replace")[-OUTPUT_KEPT:]


if __name__ == "__main__":
    logs.configure("control")
    main(int(sys.argv[1]))
