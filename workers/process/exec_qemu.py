"""Becomes a guest's QEMU: as the user, within the limits, and with the open taps and the TPM, of the one at the source.

Only the standard library, and what needs no more of ours. Launch files name this file by its path, so it stays where it
is.

`python exec_qemu.py DOCUMENT PROGRAM ARGUMENTS...`, where DOCUMENT is a `models.plan.ExecutionOrder` as JSON, of this
version or an earlier one. The process stays the same, so whoever started it knows it.
"""

import ctypes
import errno
import fcntl
import grp
import json
import os
import pwd
import resource
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.append(str(Path(__file__).parents[2]))  # `-I` leaves it out
from workers import files
from workers.process import sockets

TUN, VHOST_NET = "/dev/net/tun", "/dev/vhost-net"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE, IFF_TUN_EXCL = 0x2, 0x1000, 0x4000, 0x100, 0x8000
MODES = {"prefer": 1, "bind": 2, "interleave": 3}
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
LONG, LONGS = 8 * ctypes.sizeof(ctypes.c_ulong), 16
SO_ACCEPTCON = 0x10000
MARK = "DROVER_PROCESS"
"""See `workers.process.processes`: whoever looks for the QEMU must not find another process."""
LISTENS_WITHIN_S = 10.0
OPENS_WITHIN_S = 30.0
VERSION = 1
"""Of the documents that are read here."""
SYSTEM_PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def apply(told: dict[str, Any]) -> None:
    """Make this very process what the document says. What this host or its worker does not allow is left, with a line.

    Raises:
        OSError: it cannot become that user, or a tap cannot be opened. Then nothing may be started.
        KeyError: there is no such user or group.
        UnsafePath: something else is in the place of its TPM's socket.
        subprocess.SubprocessError: a tap cannot be a port of its bridge, or be opened by the administrator's program.
        ValueError: a newer Drover wrote the document.
    """
    if told.get("version", 0) > VERSION:
        raise ValueError(f"its document is of version {told['version']}, this Drover reads {VERSION}: upgrade it here")
    user, group = pwd.getpwnam(told["user"]), grp.getgrnam(told["group"])
    if beside := told.get("beside"):
        _start(beside, user.pw_uid, group.gr_gid)
    _hand_over(told)
    if policy := told.get("memory_policy"):
        _try("memory_policy", lambda: _set_memory_policy(policy))
    for name, limit in told.get("limits", {}).items():
        _try(f"limit {name}", partial(_limit, name, limit))
    _try("oom_score_adj", lambda: _oom(told.get("oom_score_adj", 0)))
    _try("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, told.get("nice", 0)))
    if cpus := set(told.get("cpus", ())) & os.sched_getaffinity(0):
        _try("cpus", lambda: os.sched_setaffinity(0, cpus))
    if os.geteuid() == 0 and user.pw_uid != 0:
        for device in told.get("devices", ()):
            _try(device, partial(_give, device, user.pw_uid))
        os.setgroups([grp.getgrnam(name).gr_gid for name in told.get("groups", ())])
        os.setgid(group.gr_gid)
        os.setuid(user.pw_uid)


def _give(device: str, uid: int) -> None:
    """A storage makes it for root, and udev does so anew with each start of the host."""
    with files.held(files.followed(Path(device))) as there:
        if stat.S_ISBLK(os.fstat(there).st_mode):
            files.give(there, uid, -1)


def _start(beside: Mapping[str, Any], uid: int, gid: int) -> None:
    """Start what the QEMU will speak with, and wait until it listens. It ends when this very process does."""
    deadline, path = time.monotonic() + LISTENS_WITHIN_S, beside["socket"]
    while _listens(path):  # that of a QEMU that has just ended
        _wait(deadline, f"somebody else listens at {path}")
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    child = subprocess.Popen(beside["argv"], stdin=subprocess.DEVNULL, start_new_session=True, env=environment)
    while not _listens(path):
        if child.poll() is not None:
            raise OSError(f"what listens at {path} ended with status {child.returncode}")
        _wait(deadline, f"nobody listens at {path}")
    if os.geteuid() == 0:
        sockets.give(Path(path), child.pid, uid, gid)


def _wait(deadline: float, why: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(why)
    time.sleep(0.01)


def _listens(path: str) -> bool:
    """As the kernel says, proc_net(5): it would take a connection for its only client."""
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(words[7:] == [path] and int(words[3], 16) & SO_ACCEPTCON for words in lines if len(words) > 7)


def _hand_over(told: dict[str, Any]) -> None:
    """Open what it is handed, under the numbers that its command line names."""
    opened: dict[int, int] = {}
    for tap in told.get("taps", ()):
        opened.update(zip(tap["descriptors"], _tap(tap), strict=True))
    for tap in told.get("other_taps", ()):
        opened.update(zip(tap["descriptors"], _opened_by(told["opens_taps"], tap), strict=True))
    for number in told.get("vhost_net", ()):
        opened[number] = os.open(VHOST_NET, os.O_RDWR)
    above = max(opened, default=0) + 1
    apart = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for number, descriptor in opened.items()}
    for descriptor in opened.values():
        os.close(descriptor)
    for number, descriptor in apart.items():
        os.dup2(descriptor, number, inheritable=True)


def _tap(told: Mapping[str, Any]) -> list[int]:
    """Its queues. The kernel removes it when they are closed."""
    flags = IFF_TAP | IFF_NO_PI
    flags |= IFF_VNET_HDR if told["headers"] else 0
    flags |= IFF_MULTI_QUEUE if told["multi_queue"] else 0
    first, name = _new(told["name"], flags)
    queues = [first, *(_queue(name, flags)[0] for _ in told["descriptors"][1:])]
    link = ["ip", "link", "set", "dev", name]
    state = "up" if told["up"] else "down"
    _run(*link, "address", told["mac"], "mtu", str(told["mtu"]), "master", told["bridge"])
    if port := [word for flag, on in told.get("port", {}).items() for word in (flag, "on" if on else "off")]:
        _run(*link, "type", "bridge_slave", *port)
    _run(*link, state)
    return queues


def _opened_by(program: str | None, told: Mapping[str, Any]) -> list[int]:
    """What a program of the administrator's has opened: it sends one descriptor for each queue (SCM_RIGHTS)."""
    if program is None:
        raise OSError(f"the policy names no program that opens {told['name']}")
    wanted = len(told["descriptors"])
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            environment = {**SYSTEM_PATH, "DROVER_SOCKET": str(theirs.fileno())}
            said = json.dumps(told).encode()
            subprocess.run(
                [program], check=True, env=environment, input=said, pass_fds=[theirs.fileno()], timeout=OPENS_WITHIN_S
            )
        opened = socket.recv_fds(ours, 1, wanted)[1]
    if len(opened) != wanted:
        raise OSError(f"{program} handed over {len(opened)} descriptors for {told['name']} and not {wanted}")
    return opened


def _new(name: str, flags: int) -> tuple[int, str]:
    """A tap of this name that nobody else has; if there is something of that name, of the next free one."""
    try:
        return _queue(name, flags | IFF_TUN_EXCL)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    return _queue(f"{name.rstrip('0123456789')[:12] or 'tap'}%d", flags)


def _queue(name: str, flags: int) -> tuple[int, str]:
    descriptor = os.open(TUN, os.O_RDWR)
    answer = fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return descriptor, answer[:16].rstrip(b"\0").decode()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, env=SYSTEM_PATH, stdin=subprocess.DEVNULL)


def _set_memory_policy(policy: str) -> None:
    """As set_mempolicy(2), for which the C library has no function."""
    mode, _, nodes = policy.partition(":")
    mask = sum(1 << node for node in numbers(nodes))
    words = (ctypes.c_ulong * LONGS)(*(mask >> LONG * number & (1 << LONG) - 1 for number in range(LONGS)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(SET_MEMPOLICY[os.uname().machine], MODES[mode], words, LONG * LONGS):
        raise OSError(ctypes.get_errno(), "set_mempolicy")


def numbers(text: str) -> list[int]:
    """Those of a list such as `0,2-3`."""
    ends = (part.split("-") for part in text.split(","))
    return [number for each in ends for number in range(int(each[0]), int(each[-1]) + 1)]


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
    except (OSError, ValueError, AttributeError, KeyError, files.UnsafePath) as error:
        print(f"drover: {what} is not as at the source: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        apply(json.loads(sys.argv[1]))
    except (OSError, KeyError, ValueError, subprocess.SubprocessError, files.UnsafePath) as failed:
        sys.exit(f"drover: the guest's QEMU is not started: {failed}")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 # nosec B606 # the command line that was derived on this host
