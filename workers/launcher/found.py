"""Who launched a guest's QEMU: by its cgroup, its parent and its mark. Changes nothing.

A unit counts as the guest's own if it runs this QEMU and nothing that could start another guest. Everything else that
is alive above the QEMU may start it again, and it cannot be told not to: that is for an operator to decide.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from drover.errors import Transient
from models.launcher import Launcher, LauncherKind, Limits
from workers.launcher import cgroups, systemd
from workers.process import processes, qemus
from workers.process.processes import Process

SHELLS = {"ash", "bash", "busybox", "dash", "ksh", "sh", "zsh"}
INIT = {"systemd", "init", "tini", "docker-init", "dumb-init", "catatonit"}
HOSTS_OWN = {"rc-local.service"}
"""Units that are there once for whatever a host starts, and have no process of their own."""
OURS = "drover-guest@"
"""Begins the names of the units in which guests run that were moved here."""
INFINITE = 2**64 - 1
PROPERTIES = (
    *("LoadState", "MainPID", "UnitFileState", "Restart", "RestartUSec", "Slice", "MemoryMax", "MemoryHigh"),
    *("CPUQuotaPerSecUSec", "CPUWeight", "IOWeight", "AllowedCPUs", "AllowedMemoryNodes", "ControlGroup"),
)
SPANS_US = {"us": 1, "ms": 10**3, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}


def launcher_of(qemu: Process) -> Launcher:
    """Who launched this living process, and within which limits."""
    launcher = _launcher(qemu)
    if launcher.kind is LauncherKind.UNIT:  # systemd has told them
        devices = cgroups.limits(qemu).devices
        return launcher.model_copy(update={"limits": launcher.limits.model_copy(update={"devices": devices})})
    return launcher.model_copy(update={"limits": cgroups.limits(qemu)})


def _launcher(qemu: Process) -> Launcher:
    if elsewhere := _container(qemu):
        return elsewhere
    unit = unit_of(qemu)
    if _moved_here(qemu) and not (unit or "").startswith(OURS):
        return Launcher(kind=LauncherKind.DROVER)
    if unit is not None and systemd.booted():
        try:
            return _by_unit(unit, qemu)
        except Transient as error:
            return _stays(LauncherKind.SUPERVISOR, unit, f"systemd does not say what {unit} is: {error}")
    parent = processes.parent(qemu)
    if parent is None or _is_init(parent):
        return Launcher(kind=LauncherKind.NOBODY)
    return _supervisor(parent)


def _container(qemu: Process) -> Launcher | None:
    """It has process numbers of its own."""
    try:
        inside = Path(f"/proc/{qemu.pid}/ns/pid").stat().st_ino != Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None
    if not inside:
        return None
    name = _cgroup(qemu).rstrip("/").rpartition("/")[2]
    which = f"the container {name}" if name else "a container, with process numbers of its own"
    return _stays(LauncherKind.CONTAINER, name or "unknown", f"it runs in {which}, whose engine may start it again")


def _moved_here(qemu: Process) -> bool:
    """It carries a mark that its parent does not: a worker or the lab started it, not a program that they started."""
    parent = processes.parent(qemu)
    mark = processes.mark_of(qemu)
    return mark is not None and (parent is None or processes.mark_of(parent) != mark)


def unit_of(process: Process) -> str | None:
    """The service that a process belongs to, as systemd names its cgroup. Scopes start nothing again."""
    place = _units_cgroup(process)
    return place.rpartition("/")[2].removeprefix("_") if place else None  # before what the kernel has other uses for


def _units_cgroup(process: Process) -> str | None:
    """The cgroup of that unit, which may have others below it."""
    parts = _cgroup(process).split("/")
    units = [number for number, part in enumerate(parts) if part.endswith(".service")]
    if not units or any(part.endswith(".scope") for part in parts):
        return None
    own = units[-1] if parts[units[0]].startswith("user@") else units[0]
    return "/".join(parts[: own + 1])


def _cgroup(process: Process) -> str:
    """The path by which systemd knows a process."""
    try:
        lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
    except OSError:
        return ""
    paths = dict(line.split(":", 2)[1:] for line in lines)
    return paths.get("name=systemd") or paths.get("", "")


def _by_unit(unit: str, qemu: Process) -> Launcher:
    told = systemd.properties(unit, PROPERTIES)
    if told.get("LoadState") != "loaded" or "/user@" in _cgroup(qemu):
        return _stays(LauncherKind.SUPERVISOR, unit, f"{unit}, which runs it, is none of the system's own units")
    if why := _shared(unit, int(told.get("MainPID", "0")), qemu):
        return _stays(LauncherKind.SUPERVISOR, unit, why)
    return Launcher(
        kind=LauncherKind.UNIT,
        name=unit,
        restart=told.get("Restart"),
        restart_after_us=_span_us(told.get("RestartUSec", "")),
        wanted=told.get("UnitFileState") != "disabled",
        limits=_limits(told),
    )


def _shared(unit: str, main: int, qemu: Process) -> str | None:
    """Why the unit is not this guest's alone."""
    if unit in HOSTS_OWN:
        return f"{unit} may start more than this guest"
    if others := [pid for pid in _members(qemu) if pid != qemu.pid and qemus.qemu_of(pid) is not None]:
        return f"{unit} runs other guests as well (pid {others[0]})"
    between = list(_between(qemu, main))
    if main in {0, qemu.pid} or (between[-1:] == [main] and all(_name(Process(pid, 0)) in SHELLS for pid in between)):
        return None
    return f"it was started by pid {main} of {unit}, which may run more than this guest"


def _between(qemu: Process, top: int) -> Iterator[int]:
    """The pids above a process, up to `top`."""
    above = processes.parent(qemu)
    while above is not None and above.pid != 1:
        yield above.pid
        if above.pid == top:
            return
        above = processes.parent(above)


def _members(qemu: Process) -> list[int]:
    """The processes of its unit."""
    mine = _units_cgroup(qemu)
    return [process.pid for process in processes.everybody() if _units_cgroup(process) == mine]


def above_in_its_unit(qemu: Process) -> list[Process]:
    """The scripts of its own unit that wait for its end."""
    mine = _units_cgroup(qemu)
    found = (processes.process(pid) for pid in _between(qemu, 0))
    return [process for process in found if process is not None and _units_cgroup(process) == mine]


def _is_init(process: Process) -> bool:
    """It takes in what has lost its parent, and starts nothing again."""
    return _name(process) in INIT or (process.pid == 1 and _name(process) not in SHELLS)


def _supervisor(parent: Process) -> Launcher:
    name = _name(parent)
    why = f"{name} (pid {parent.pid}), which it is a child of, may start it again once it has ended"
    return _stays(LauncherKind.SUPERVISOR, name, why, parent)


def _stays(kind: LauncherKind, name: str, why: str, process: Process | None = None) -> Launcher:
    pid, started = (process.pid, process.started) if process else (None, None)
    return Launcher(kind=kind, name=name, stays=why, pid=pid, started=started)


def _name(process: Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/comm").read_text().strip()
    except OSError:
        return ""


def _limits(told: Mapping[str, str]) -> Limits:
    return Limits(
        slice=told.get("Slice") or None,
        memory_max_bytes=_number(told.get("MemoryMax")),
        memory_high_bytes=_number(told.get("MemoryHigh")),
        cpu_quota_us_per_s=_span_us(told.get("CPUQuotaPerSecUSec", "")),
        cpu_weight=_number(told.get("CPUWeight")),
        io_weight=_number(told.get("IOWeight")),
        allowed_cpus=told.get("AllowedCPUs") or None,
        allowed_memory_nodes=told.get("AllowedMemoryNodes") or None,
    )


def _number(text: str | None) -> int | None:
    """None: `infinity`, or `[not set]`, which some versions show as the largest number."""
    number = int(text) if text and text.isdigit() else INFINITE
    return None if number == INFINITE else number


def _span_us(text: str) -> int | None:
    """Of `1min 30s` in microseconds."""
    total = 0
    for part in text.split():
        digits = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = SPANS_US.get(part.removeprefix(digits))
        if unit is None:
            return None
        try:
            total += round(float(digits) * unit)
        except ValueError:
            return None
    return total if text else None
