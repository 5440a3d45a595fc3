"""As whom a guest's QEMU runs and within which limits, read from its process; and whether that can be so here."""

import json
import os
import pwd
import re
import resource
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from models.plan import Companion, Execution, ExecutionOrder, PlannedTpm
from models.preflight import Check
from workers.preflight import checks
from workers.process import accounts, exec_qemu, processes, vcpus
from workers.process.processes import Process
from workers.process.taps import NOTHING, HandedOver
from workers.qemu.options import parse_command_line
from workers.trust.policy import HostPolicy

POLICY = re.compile("(?:prefer|bind|interleave):[0-9][0-9,-]*")
LIMITS = {
    "Max address space": "as",
    "Max core file size": "core",
    "Max cpu time": "cpu",
    "Max data size": "data",
    "Max file size": "fsize",
    "Max locked memory": "memlock",
    "Max open files": "nofile",
    "Max processes": "nproc",
    "Max realtime priority": "rtprio",
    "Max stack size": "stack",
}
"""As /proc/PID/limits calls them: that needs no privilege of its own, unlike prlimit(2)."""


def read(
    process: Process, argv: Sequence[str], handed: HandedOver = NOTHING, threads: Sequence[int] = ()
) -> Execution | None:
    """What its process shows, with what it was handed and the threads of its vCPUs.

    None: it may not be looked at, or it has ended.
    A QEMU that changes its user itself (`-runas`) was started by root, and is so again.
    """
    folder = Path(f"/proc/{process.pid}")
    with suppress(OSError, KeyError, ValueError):
        status = processes.status(process)
        uid, gid = (0, 0) if _changes_user(argv) else (int(status["Uid"].split()[1]), int(status["Gid"].split()[1]))
        cpus = os.sched_getaffinity(process.pid)
        return Execution(
            user=accounts.user_name(uid),
            group=accounts.group_name(gid),
            groups=() if uid == 0 else tuple(accounts.group_name(int(number)) for number in status["Groups"].split()),
            nice=os.getpriority(os.PRIO_PROCESS, process.pid),
            oom_score_adj=int((folder / "oom_score_adj").read_text()),
            cpus=() if cpus == os.sched_getaffinity(0) else tuple(sorted(cpus)),
            vcpus=vcpus.read(process, threads),
            memory_policy=_memory_policy(folder),
            limits=dict(_limits(process)),
            taps=handed.taps,
            other_taps=handed.other_taps,
            vhost_net=handed.vhost_net,
        )
    return None


def _changes_user(argv: Sequence[str]) -> bool:
    options = parse_command_line(argv)
    return any(option.name == "runas" or (option.name == "run-with" and option.get("user")) for option in options)


def _limits(process: Process) -> Iterator[tuple[str, tuple[int, int]]]:
    """Those that differ from the worker's own: the others it gives to whatever it starts."""
    for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines():
        name = LIMITS.get(line[:26].strip())
        if name is not None:
            soft, hard = (-1 if word == "unlimited" else int(word) for word in line[26:].split()[:2])
            if (soft, hard) != resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}")):
                yield name, (soft, hard)


def _memory_policy(folder: Path) -> str | None:
    """Its first mapping is its program, which has no policy of its own."""
    with suppress(OSError):
        said = (folder / "numa_maps").read_text().partition("\n")[0].split()[1]
        return said if POLICY.fullmatch(said) else None
    return None


def impossible(wanted: Execution | None, rules: HostPolicy, what: str = "its QEMU") -> list[Check]:
    """Why nothing can be started like that here."""
    if wanted is None or wanted.user == "root":
        return []
    try:
        uid = pwd.getpwnam(wanted.user).pw_uid
    except KeyError:
        return [checks.process.NO_USER.found(f"{what} runs as the user {wanted.user}, who does not exist here")]
    found = [
        checks.process.NO_USER.found(f"{what} runs in the group {name}, which does not exist here")
        for name in (wanted.group, *wanted.groups)
        if accounts.group_id(name) is None
    ]
    if not rules.may_be(uid, wanted.user):
        seen = f"{what} runs as the user {wanted.user}, whom {rules.name} here does not list under `users`"
        found.append(checks.process.NO_USER.found(seen, remedy="list the user there, if guests may be run by it"))
    if os.geteuid() not in {0, uid}:
        seen = f"{what} runs as the user {wanted.user}, and this worker is no root"
        found.append(checks.process.NO_USER.found(seen, remedy="run the worker as root"))
    return found


def warnings(wanted: Execution | None) -> list[Check]:
    """What it is pinned to and cannot have here."""
    if wanted is None:
        return []
    pinned, here = {*wanted.cpus, *chain.from_iterable(wanted.vcpus)}, os.sched_getaffinity(0)
    found = []
    if missing := sorted(pinned - here):
        seen = f"its QEMU is pinned to CPUs of which {_listed(missing)} may not be used here: it gets the others"
        found.append(checks.process.PINNED.found(seen))
    nodes = exec_qemu.numbers(wanted.memory_policy.partition(":")[2]) if wanted.memory_policy else []
    if gone := [node for node in nodes if not Path(f"/sys/devices/system/node/node{node}").exists()]:
        seen = f"its memory policy ({wanted.memory_policy}) names NUMA nodes of which {_listed(gone)} do not exist here"
        found.append(checks.process.PINNED.found(seen))
    return found


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def descriptors(wanted: Execution | None) -> frozenset[int]:
    """Those that are opened anew for it."""
    if wanted is None:
        return frozenset()
    of_taps = (tap.descriptors for tap in wanted.taps), (tap.descriptors for tap in wanted.other_taps)
    return frozenset((*wanted.vhost_net, *chain.from_iterable(chain(*of_taps))))


def launched(
    argv: Sequence[str],
    wanted: Execution | None,
    tpm: PlannedTpm | None = None,
    taps: Path | None = None,
    devices: Iterable[str] = (),
) -> list[str]:
    """The command line that starts it like that here, with its TPM beside it; `taps` opens those of other kinds, and
    the block devices become its user's.
    """
    if wanted is None or not (tpm or _differs(wanted)):
        return list(argv)
    order = ExecutionOrder(
        **dict(wanted),
        beside=_emulator(tpm) if tpm is not None else None,
        opens_taps=str(taps) if taps is not None else None,
        devices=tuple(devices),
    )
    return [sys.executable, "-I", "-S", exec_qemu.__file__, json.dumps(order.json_object()), *argv]


def _emulator(tpm: PlannedTpm) -> Companion:
    with_it = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "TERM", shutil.which("swtpm") or "swtpm"]
    return Companion(argv=tuple(launched([*with_it, *tpm.argv], tpm.started_as)), socket=tpm.socket)


def _differs(wanted: Execution) -> bool:
    other_user = wanted.user != "root" and os.geteuid() == 0
    same_user = {"user": wanted.user, "group": wanted.group, "groups": wanted.groups}
    return other_user or plainly().model_copy(update=same_user) != wanted


def plainly() -> Execution:
    """As whatever a worker starts without further ado."""
    return Execution(
        user=accounts.user_name(os.geteuid()),
        group=accounts.group_name(os.getegid()),
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        oom_score_adj=int(Path("/proc/self/oom_score_adj").read_text()),
    )


def owner_here(wanted: Execution | None, owner: tuple[str, str] | None) -> tuple[int, int] | None:
    """User and group that an image gets: those it had by name, or where they are not here those of its QEMU.

    None: as the worker makes it.
    """
    if os.geteuid() != 0:
        return None
    for user, group in filter(None, (owner, (wanted.user, wanted.group) if wanted is not None else None)):
        if (here := accounts.ids(user, group)) is not None:
            return here
    return None
