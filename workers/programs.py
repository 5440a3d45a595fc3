"""Programs of a host's administrator: run as a user, with an end, knowing what they are run for."""

import asyncio
import contextlib
import grp
import os
import pwd
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.process.environment import handed_on

LINES = 3
LONGEST_SAID = 500


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
        return f"failed ({'without a status' if self.status is None else f'status {self.status}'}): {self.said}"


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
    try:
        process = await asyncio.create_subprocess_exec(
            str(program),
            *arguments,
            env={**handed_on(), **environment},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            **_as(user),
        )
    except (OSError, KeyError) as error:
        return Outcome(status=None, said=f"it could not be started: {error}")
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate(told)
    except TimeoutError:
        return Outcome(status=None, said=f"it took longer than {timeout_s:g} s and was ended")
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    lines = output.decode(errors="replace").strip().splitlines()[-LINES:]
    said = " / ".join(lines)[-LONGEST_SAID:] or "it said nothing"
    return Outcome(status=process.returncode, said=said)


def _as(user: str | None) -> dict[str, Any]:
    """Arguments of `subprocess` that make it another user's."""
    if user is None or user == pwd.getpwuid(os.geteuid()).pw_name:
        return {}
    found = pwd.getpwnam(user)
    groups = [group.gr_gid for group in grp.getgrall() if user in group.gr_mem]
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": groups}
