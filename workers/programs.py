"""Programs of a host's administrator: run as a user, with an end, knowing what they are run for."""

import asyncio
import contextlib
import os
import pwd
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from drover import words
from workers.process.environment import handed_on

LINES = 3
LONGEST_SAID = 500
PIPE_BYTES = 1 << 16
"""What fits into a pipe, pipe(7)."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a program ended."""

    status: int | None
    """None: it took too long, or could not be started."""
    said: str
    """The end of its output, or what happened to it."""

    @property
    def ok(self) -> bool:
        """It says that all is well."""
        return self.status == 0

    @property
    def how(self) -> str:
        """It ended like that, for people."""
        if self.ok:
            return "ended well"
        if self.status is None:
            return f"failed (without a status): {self.said}"
        by = f"signal {-self.status}" if self.status < 0 else f"status {self.status}"
        return f"failed ({by}): {self.said}"


async def run(
    program: Path,
    *arguments: str,
    environment: Mapping[str, str],
    told: bytes = b"",
    user: str | None = None,
    timeout_s: float,
) -> Outcome:
    """Run it to its end; whatever it started ends with it when it takes too long.

    It gets `workers.process.environment.handed_on`, what `environment` adds, and `told` on its standard input.
    """
    with _input(told) as stdin, _Output() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                str(program),
                *arguments,
                env={**handed_on(), **environment},
                stdin=stdin,
                stdout=output.end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                **_as(user),
            )
        except (OSError, KeyError) as error:
            return Outcome(status=None, said=f"it could not be started: {error}")
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            return Outcome(status=None, said=f"it took longer than {words.duration(timeout_s)} and was ended")
        finally:
            with contextlib.suppress(ProcessLookupError):  # nothing is left of it
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return Outcome(status=process.returncode, said=output.tail() or "it said nothing")


@contextmanager
def _input(told: bytes) -> Iterator[int]:
    """A file in memory with that in it: whether it is read is the program's business."""
    with os.fdopen(os.memfd_create("told"), "r+b", buffering=0) as file:
        file.write(told)
        file.seek(0)
        yield file.fileno()


class _Output:
    """A pipe that is read all the time, and of which the last lines are kept.

    It ends with the program. What that has left in the background may hold the pipe for as long as it likes.
    """

    def __enter__(self) -> Self:
        self._begin, self.end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._begin, False)
        self._kept = b""
        asyncio.get_running_loop().add_reader(self._begin, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._begin)
        os.close(self._begin)
        os.close(self.end)

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):  # there is nothing now
            self._kept = (self._kept + os.read(self._begin, PIPE_BYTES))[-LINES * LONGEST_SAID * 4 :]

    def tail(self) -> str:
        """The end of it."""
        self._take()  # no more fits into the pipe
        lines = self._kept.decode(errors="replace").strip().splitlines()[-LINES:]
        return " / ".join(lines)[-LONGEST_SAID:]


def _as(user: str | None) -> dict[str, Any]:
    """Arguments of `subprocess` that make it another user's."""
    if user is None or user == pwd.getpwuid(os.geteuid()).pw_name:
        return {}
    found = pwd.getpwnam(user)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": os.getgrouplist(user, found.pw_gid)}
