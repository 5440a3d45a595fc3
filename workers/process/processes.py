"""Processes that must outlive the worker which started them: NBD servers, incoming QEMUs, switchover processes.

Each carries its name in its environment, so that any later worker finds it again without a file or row.
"Dead" is decided by pid, start time and state: in a container without a proper init an orphan that was killed
stays a zombie for a while.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drover import logs
from drover.errors import Transient
from workers import files
from workers.process.environment import handed_on
from workers.process.machine import boot

logger = logging.getLogger(__name__)

MARK = "DROVER_PROCESS"
NAMES = "names"
"""The file of a folder whose text follows the name of each process below it: any user can give a process a name, but
cannot guess that."""
LONGEST = 4096
"""Characters of a name: as of a path."""
NO_PROGRAM = 0x00200000 | 0x4
"""PF_KTHREAD and PF_EXITING in the flags of proc_pid_stat(5)."""
EXEC_S, SETTING_UP_S = 1.0, 0.05
"""How long `exec` is waited for (its file may lie on a slow disk), and the moment in it without an environment: 3 ms
were too short where six processes wait for each core. Few programs are started without one."""
DELETED = " (deleted)"
"""How the kernel marks a file without a name."""
KILLED_S = 10.0
"""A killed process that still exists after this time waits in the kernel, for instance for slow storage."""
_ours: "dict[str, Process]" = {}
"""The living processes that this one has started, by name."""


@dataclass(frozen=True)
class Process:
    """One process. Its start time (kernel ticks since boot) distinguishes it from a later one with the same pid."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """It still runs; a zombie does not count."""
        return _start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal if it is still the same process."""
        if self.alive:
            logger.debug("sends signal %d", number, extra={"pid": self.pid})
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, grace_s: float = 3.0) -> None:
        """Send SIGTERM, then SIGKILL. Returns when it is dead; errors as for `end_now`."""
        self.signal(signal.SIGTERM)
        if not await self.ended(grace_s):
            await self.end_now()

    async def end_now(self) -> None:
        """Kill it. Returns when it is dead.

        Raises:
            Transient: the kernel holds it, for instance until slow storage answers.
        """
        self.signal(signal.SIGKILL)
        if not await self.ended(KILLED_S):
            raise self._stuck()

    async def ended(self, timeout_s: float) -> bool:
        """Whether it died in time."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(OSError), _descriptor(self.pid) as descriptor:
            if self.alive:  # else that may be another process
                await _readable(descriptor, timeout_s)
        while self.alive:  # as in `wait`
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.001)
        return True

    def kill(self) -> None:
        """`end_now`, for a thread that has no event loop."""
        self.signal(signal.SIGKILL)
        if not self.wait(KILLED_S):
            raise self._stuck()

    def _stuck(self) -> Transient:
        return Transient(f"process {self.pid} does not end although it was killed: the kernel holds it (slow storage?)")

    def wait(self, timeout_s: float) -> bool:
        """`ended`, for a thread that has no event loop."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(OSError), _descriptor(self.pid) as descriptor:
            if self.alive:  # else that may be another process
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                poll.poll(1000 * timeout_s)
        while self.alive:  # a moment longer: its parent, or a thread that is stuck in the kernel
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True


async def _readable(descriptor: int, timeout_s: float) -> None:
    """Until something can be read from this descriptor, but no longer than that."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(readable.wait(), timeout_s)
    finally:
        loop.remove_reader(descriptor)


@contextlib.contextmanager
def _descriptor(pid: int) -> Iterator[int]:
    """Readable once the process has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def pids() -> list[int]:
    """Of all processes that there are now."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def process(pid: int) -> Process | None:
    """The living process with this pid."""
    started = _start_time(pid)
    return None if started is None else Process(pid, started)


def identity(process: Process) -> str:
    """A text unique to one process: this boot of the kernel, its namespace of pids, and the process."""
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    return f"{boot()}/{namespace}/{process.pid}/{process.started}"


def identified(text: str | None) -> Process | None:
    """The process that an identity names, living or dead; None for one of another namespace of pids."""
    this_boot, namespace, pid, started = (text or "///").split("/")
    if not pid or (this_boot == boot() and namespace != str(Path("/proc/self/ns/pid").stat().st_ino)):
        return None
    return Process(int(pid), int(started) if this_boot == boot() else -1)


def booted_since(identity: str | None) -> bool:
    """Whether this machine was booted anew since that process ran. Where that is not known it may have been: true."""
    return (identity or "").partition("/")[0] != boot()


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = _fields(stat)
    # The first thread is a zombie before the others have ended, and until then files and locks are still held.
    dead = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if dead else int(fields[19])


def _fields(stat: str) -> list[str]:
    """From the state on, proc_pid_stat(5); the name before it may hold blanks and parentheses."""
    return stat[stat.rindex(")") + 2 :].split()


def spawn(
    mark: str,
    argv: Sequence[str],
    log: Path,
    *,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a program in a session of its own, under a name by which `find` knows it from now on.

    It gets `workers.process.environment.handed_on` and what `environment` adds to it.
    """
    with os.fdopen(files.private(log, os.O_WRONLY | os.O_APPEND), "ab") as output:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=pass_fds,
            env={**handed_on(), **(environment or {}), **named(mark)},
        )
    started = _start_time(child.pid)
    process = Process(child.pid, started if started is not None else -1)
    _ours[mark] = process
    logger.info("started %s", Path(mark).name, extra={"pid": child.pid})
    threading.Thread(target=logs.carrying(_reap), args=(child, mark), name=f"reap {child.pid}", daemon=True).start()
    return process


def named(mark: str) -> dict[str, str]:
    """The environment by which a process has this name."""
    return {MARK: f"{mark}{_secret(mark)}"}


def _reap(child: "subprocess.Popen[bytes]", mark: str) -> None:
    status = child.wait()
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    logger.info("%s ended %s", Path(mark).name, how, extra={"pid": child.pid})
    if (known := _ours.get(mark)) is not None and known.pid == child.pid:
        _ours.pop(mark, None)


def one(mark: str) -> Process | None:
    """A living process that was started under this name. One that we started ourselves needs no search for it."""
    known = _ours.get(mark)
    if known is not None and known.alive:
        return known
    return next(iter(find(mark)), None)


def find(mark: str) -> list[Process]:
    """The living processes that were started under this name."""
    return [found for name, found in _named(mark) if name == mark]


async def end_all(mark: str) -> None:
    """Kill all that were started under this name; none is fine. Errors as for `end_now`."""
    for process in find(mark):
        await process.end_now()


def find_below(folder: Path) -> list[Process]:
    """All living processes started under a name that lies below this folder."""
    return [found for _, found in marked(folder)]


def marked(folder: Path) -> list[tuple[str, Process]]:
    """Likewise, each with the rest of its name."""
    return [(name.removeprefix(f"{folder}/"), found) for name, found in _named(f"{folder}/")]


def _named(start: str) -> list[tuple[str, Process]]:
    """The living processes whose name begins like this, each with its name.

    A host has thousands of processes, and each link asks several times: of the others only their environment is read.
    """
    wanted, found = f"{MARK}={start}".encode(), []
    for pid in pids():
        _, is_there, rest = (b"\0" + _environment(pid)).partition(b"\0" + wanted)
        if is_there and (alive := process(pid)) is not None:
            name, tab, secret = (start + rest.partition(b"\0")[0].decode(errors="replace")).partition("\t")
            if len(name) <= LONGEST and _secret(name) in {"", tab + secret}:
                found.append((name, alive))
    return found


def _secret(mark: str) -> str:
    """Empty where there is none: outside of jobs, for a job that an earlier version began here, or after its end."""
    there = next(folder for folder in Path(mark).parents if os.path.isdir(folder))  # noqa: PTH112 # whatever it is called
    with contextlib.suppress(OSError):
        return (there / NAMES).read_text()
    return ""


def make_names_secret(folder: Path) -> None:
    """Have the processes that are started below this folder from now on told from those that others call so."""
    with contextlib.suppress(FileExistsError):
        os.write(file := files.private(folder / NAMES, os.O_WRONLY | os.O_EXCL), f"\t{secrets.token_hex(16)}".encode())
        os.close(file)


def _environment(pid: int) -> bytes:
    """Empty if there is none that we may see.

    While a process becomes another program (`exec`; a wrapper script does it twice), its environment reads empty for
    some hundredths of a millisecond, longer where all cores are busy (seen on 6.18).
    """
    begun = time.monotonic()
    with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
        while not (environment := _content(f"/proc/{pid}/environ")):
            if time.monotonic() >= begun + _patience_s(pid):
                break
            time.sleep(0.0005)
        return environment
    return b""


def _content(file: str) -> bytes:
    """Of thousands of processes, one after the other: by a path's own method it takes half as long again."""
    with open(file, "rb", buffering=0) as opened:  # noqa: PTH123
        return opened.readall()


def _patience_s(pid: int) -> float:
    """How long a process without an environment is worth waiting for."""
    fields = _fields(Path(f"/proc/{pid}/stat").read_text())
    if fields[0] in "ZX" or int(fields[6]) & NO_PROGRAM:
        return 0.0
    begin, end = int(fields[47]), int(fields[48])  # of its environment in memory; some programs are started with none
    return SETTING_UP_S if begin == end != 0 else EXEC_S


def children(parent: Process) -> list[Process]:
    """The living processes that it has started itself."""
    tasks = Path(f"/proc/{parent.pid}/task")
    below = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
    return [alive for pid in below if (alive := process(int(pid))) is not None]


def parent(child: Process) -> Process | None:
    """The living process that it is a child of now; None also where that has other numbers of processes."""
    try:
        above = int(_fields(Path(f"/proc/{child.pid}/stat").read_text())[1])
    except OSError:
        return None
    return process(above) if above else None


def mark_of(process: Process) -> str | None:
    """The name under which it, or a process above it, was started by `spawn`."""
    _, is_there, rest = (b"\0" + _environment(process.pid)).partition(f"\0{MARK}=".encode())
    return rest.partition(b"\0")[0].partition(b"\t")[0].decode(errors="replace") if is_there else None


def everybody() -> list[Process]:
    """All living processes."""
    return [alive for pid in pids() if (alive := process(pid)) is not None]


def having_open(file: Path) -> list[Process]:
    """The processes that have this file open, as far as we may see them."""
    wanted = file.stat()
    found = (process(pid) for pid in pids() if _opens(pid, wanted))
    return [alive for alive in found if alive is not None]


def open_files(process: Process) -> list[Path]:
    """Where the files lie that it has open, as the kernel shows them; empty if we may not see it."""
    found = []
    with contextlib.suppress(OSError):
        for descriptor in list(Path(f"/proc/{process.pid}/fd").iterdir()):
            with contextlib.suppress(OSError):  # closed meanwhile
                found.append(descriptor.readlink())
    return found


def started_at(process: Process) -> float:
    """When it was started, in seconds since the epoch by this host's clock."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + process.started / os.sysconf("SC_CLK_TCK")


def groups(process: Process) -> set[int]:
    """Its supplementary groups."""
    return {int(number) for number in status(process)["Groups"].split()}


def permitted(process: Process, there: os.stat_result, right: int) -> bool:
    """Whether its user and groups let it do that to a file: `S_IROTH`, `S_IWOTH`. An access list is not looked at."""
    user = Path(f"/proc/{process.pid}").stat()
    if user.st_uid in {0, there.st_uid}:
        return True
    in_group = there.st_gid in {user.st_gid, *groups(process)}
    return bool(there.st_mode & (right << 3 if in_group else right))


def status(process: Process) -> dict[str, str]:
    """What the kernel says of it, by name, proc_pid_status(5)."""
    lines = Path(f"/proc/{process.pid}/status").read_text(errors="replace").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def opened(process: Process, descriptor: int | str) -> str:
    """What is open there, as the kernel names it: a path, `socket:[NUMBER]`, or the like."""
    return str(Path(f"/proc/{process.pid}/fd/{descriptor}").readlink())


def has_at(process: Process, descriptor: int, path: str) -> bool:
    """What it has open there is the very file, or device, that lies at this path."""
    with contextlib.suppress(OSError):
        return _is_open(Path(f"/proc/{process.pid}/fd/{descriptor}"), Path(path).stat())
    return False


def has_open(process: Process, wanted: os.stat_result) -> bool:
    """Whether this process has that file open, as the kernel says."""
    return _opens(process.pid, wanted)


def sees_otherwise(process: Process, path: str) -> bool:
    """What that process finds at this path is not what is there for us: it has a root, or mounts, of its own."""
    try:
        theirs = Path(f"/proc/{process.pid}/root{path}").stat()
    except OSError:
        return False  # nothing is there, or we may not look
    try:
        return not os.path.samestat(theirs, Path(path).stat())
    except OSError:
        return True


def _opens(pid: int, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
        return any(_is_open(descriptor, wanted) for descriptor in list(Path(f"/proc/{pid}/fd").iterdir()))
    return False


def _is_open(descriptor: Path, wanted: os.stat_result) -> bool:
    try:
        there = descriptor.stat()
        if stat.S_ISBLK(wanted.st_mode):  # several nodes of /dev may mean one device
            return stat.S_ISBLK(there.st_mode) and there.st_rdev == wanted.st_rdev
        return os.path.samestat(there, wanted)
    except OSError:  # closed meanwhile
        return False


def log_tail(log: Path) -> str:
    """Its last three lines, for an error message."""
    try:
        return " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
    except OSError:
        return ""
