"""Becomes a guest's QEMU: as the user, and within the limits, of the one at the source. Only the standard library.

`python as_user.py DOCUMENT PROGRAM ARGUMENTS...`, where DOCUMENT is a `models.plan.StartedAs` as JSON. The process
stays the same, so whoever started it knows it.
"""

import grp
import json
import os
import pwd
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def apply(told: dict[str, Any]) -> None:
    """Make this very process what the document says. What this host or its worker does not allow is left, with a line.

    Raises:
        OSError: it cannot become that user. Then nothing may be started.
        KeyError: there is no such user or group.
    """
    for name, limit in told.get("limits", {}).items():
        _try(f"limit {name}", partial(_limit, name, limit))
    _try("oom_score_adj", lambda: _oom(told.get("oom_score_adj", 0)))
    _try("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, told.get("nice", 0)))
    if cpus := set(told.get("cpus", ())) & os.sched_getaffinity(0):
        _try("cpus", lambda: os.sched_setaffinity(0, cpus))
    user, group = pwd.getpwnam(told["user"]), grp.getgrnam(told["group"])
    if os.geteuid() == 0 and user.pw_uid != 0:
        os.setgroups([grp.getgrnam(name).gr_gid for name in told.get("groups", ())])
        os.setgid(group.gr_gid)
        os.setuid(user.pw_uid)


def _limit(name: str, limit: list[int]) -> None:
    number = getattr(resource, f"RLIMIT_{name.upper()}")
    if list(resource.getrlimit(number)) != limit:
        resource.setrlimit(number, (limit[0], limit[1]))


def _oom(score: int) -> None:
    file = Path("/proc/self/oom_score_adj")
    if int(file.read_text()) != score:
        file.write_text(str(score))


def _try(what: str, change: Callable[[], None]) -> None:
    try:
        change()
    except (OSError, ValueError, AttributeError) as error:
        print(f"drover: {what} is not as at the source: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    apply(json.loads(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 # nosec B606 # the command line that was derived on this host
