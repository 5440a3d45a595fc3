"""The limits of a guest that no unit of its own has are those of the cgroups in which there is nothing else."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.launcher import Launcher, LauncherKind, Limits
from workers.launcher import cgroups, units
from workers.process import processes
from workers.process.processes import Process


@pytest.fixture
def qemu() -> Iterator[Process]:
    with subprocess.Popen(["sleep", "60"]) as child:
        found = processes.process(child.pid)
        assert found is not None
        yield found
        child.kill()


@pytest.fixture
def place(qemu: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the kernel has one for its cgroup: to make one needs a machine of one's own."""
    scope = tmp_path / "machine.slice" / "machine-qemu-1-web.scope"
    emulator = scope / "libvirt" / "emulator"
    read = cgroups._text

    def text(folder: Path, name: str) -> str:
        if (folder, name) == (Path(f"/proc/{qemu.pid}"), "cgroup"):
            return f"9:name=systemd:/x\n0::/{emulator.relative_to(tmp_path)}"
        return read(folder, name)

    monkeypatch.setattr(cgroups, "_text", text)
    for folder in (emulator, *list(emulator.parents)[:3]):
        put(folder, "cgroup.procs", "")
    put(emulator, "cgroup.procs", f"{qemu.pid}\n")
    put(scope.parent / "machine-qemu-2-db.scope", "cgroup.procs", "1\n")
    return scope


def put(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_the_narrowest_limits_of_a_scope_count(qemu: Process, place: Path, tmp_path: Path) -> None:
    put(place.parent, "memory.max", "1\n")
    put(place, "memory.max", "4294967296\n")
    put(place / "libvirt", "memory.max", "max\n")
    put(place / "libvirt" / "emulator", "cpu.max", "50000 100000\n")
    put(place / "libvirt", "cpu.max", "max 100000\n")
    put(place, "cpu.weight", "200\n")
    put(place, "io.weight", "default 100\n8:0 300\n")
    put(place / "libvirt" / "emulator", "cpuset.cpus", "2-3\n")
    put(place, "io.max", "8:0 rbps=1000 wbps=max riops=max wiops=max\n")
    assert cgroups.limits(qemu, tmp_path) == Limits(
        slice="machine.slice",
        memory_max_bytes=4 << 30,
        cpu_quota_us_per_s=500_000,
        cpu_weight=200,
        allowed_cpus="2-3",
        devices=("8:0 rbps=1000 wbps=max riops=max wiops=max",),
    )


def test_a_cgroup_with_others_in_it_says_nothing_about_a_guest(qemu: Process, place: Path, tmp_path: Path) -> None:
    put(place / "libvirt" / "emulator", "memory.max", "4096\n")
    put(place / "libvirt" / "emulator", "cgroup.procs", f"{qemu.pid}\n1\n")
    assert cgroups.limits(qemu, tmp_path) == Limits()


def test_limits_that_nothing_sets_here_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(limits: Limits, *, available: bool) -> list[str]:
        monkeypatch.setattr(units, "available", lambda: available)
        return [check.seen for check in units.limits_left(Launcher(kind=LauncherKind.NOBODY, limits=limits))]

    memory, device = Limits(slice="machine.slice", memory_max_bytes=1 << 30), Limits(devices=("8:0 rbps=1000",))
    assert said(memory, available=True) == []
    assert said(Limits(slice="x.slice"), available=False) == []
    assert units.limits_left(None) == []
    assert said(memory, available=False) == [
        "its limits of memory and CPU are not set here: no unit for guests is here"
    ]
    assert said(device, available=True) == ["its limits of single block devices are not set here (8:0 rbps=1000)"]
