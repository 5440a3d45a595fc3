"""The limits of a QEMU that no unit of its own has: those of its cgroup, and of those above it that are its alone.

libvirt keeps each guest in a scope of its own, with limits in it and below it.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from models.launcher import Limits
from workers.process.processes import Process

ROOT = Path("/sys/fs/cgroup")
"""Of version 2, as systemd mounts it."""
BESIDE = frozenset({"swtpm", "passt", "slirp4netns", "virtiofsd"})
"""Programs that serve one guest, and lie in its cgroup."""
US_PER_S = 1_000_000


def limits(qemu: Process, root: Path = ROOT) -> Limits:
    """The narrowest of them; none where it shares its cgroup with others."""
    folders = list(_alone(qemu, root))
    if not folders:
        return Limits()
    top = folders[-1]
    above = top.parent.name
    return Limits(
        slice=above if above.endswith(".slice") and not above.startswith("user") else None,
        memory_max_bytes=_least(folders, "memory.max", _bytes),
        memory_high_bytes=_least(folders, "memory.high", _bytes),
        cpu_quota_us_per_s=_least(folders, "cpu.max", _quota),
        cpu_weight=_changed(top, "cpu.weight"),
        io_weight=_changed(top, "io.weight"),
        allowed_cpus=_first(folders, "cpuset.cpus"),
        allowed_memory_nodes=_first(folders, "cpuset.mems"),
        devices=tuple(line for folder in folders for line in _text(folder, "io.max").splitlines()),
    )


def _alone(qemu: Process, root: Path) -> Iterator[Path]:
    """Its cgroup, and those above it in which there is nothing else."""
    place = next(
        (line[3:] for line in _text(Path(f"/proc/{qemu.pid}"), "cgroup").splitlines() if line[:3] == "0::"), "/"
    )
    folder = root / place.strip("/")
    while folder != root and _is_alone(qemu, folder):
        yield folder
        folder = folder.parent


def _is_alone(qemu: Process, folder: Path) -> bool:
    if not (folder / "cgroup.procs").is_file():
        return False
    pids = {pid for procs in folder.rglob("cgroup.procs") for pid in _text(procs.parent, procs.name).split()}
    others = pids - {str(qemu.pid)}
    return str(qemu.pid) in pids and all(_text(Path("/proc", pid), "comm") in BESIDE for pid in others)


def _text(folder: Path, name: str) -> str:
    with suppress(OSError):  # that controller is not on, or the process has ended
        return (folder / name).read_text().strip()
    return ""


def _bytes(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _quota(text: str) -> int | None:
    quota, _, period = text.partition(" ")
    return int(quota) * US_PER_S // int(period) if quota.isdigit() and period.isdigit() else None


def _least(folders: list[Path], name: str, read: Callable[[str], int | None]) -> int | None:
    found = (read(_text(folder, name)) for folder in folders)
    return min((value for value in found if value is not None), default=None)


def _changed(folder: Path, name: str) -> int | None:
    """A weight other than the usual 100. Those of single block devices are in further lines."""
    value = _text(folder, name).partition("\n")[0].rpartition(" ")[2]
    return int(value) if value.isdigit() and value != "100" else None


def _first(folders: list[Path], name: str) -> str | None:
    return next((text for folder in folders if (text := _text(folder, name))), None)
