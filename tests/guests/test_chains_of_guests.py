"""Guests whose disks lie on a base: the base is shared at the destination, or the disk is flattened."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from drover.errors import PreconditionFailed
from models.job import Job
from tests.helpers import Moves, until
from tests.qmp_guest import QEMU, image
from workers.process import processes
from workers.process.sockets import listens
from workers.qemu.monitor import connect
from workflows import guests
from workflows.migration import preflight

pytestmark = [pytest.mark.thorough, pytest.mark.guests]
BASE_MIB, NEW_MIB = 24, 1
CHANGED_KIB = 68


def on_base(moves: Moves, name: str, base: Path) -> str:
    """A running guest without an operating system, whose disk lies on this base."""
    host = moves.lab.host("host-a")
    folder = host.guests / name
    folder.mkdir()
    disk = image(folder / "disk.qcow2", "qcow2", "64M", "-b", str(base), "-F", "qcow2")
    subprocess.run(["qemu-io", "-c", f"write -P 9 40M {NEW_MIB}M", str(disk)], check=True, capture_output=True)
    drive, monitor = f"file={disk},if=virtio,format=qcow2", f"unix:{folder}/qmp,server=on,wait=off"
    line = [QEMU, "-m", "64", "-display", "none", "-nodefaults", "-drive", drive, "-qmp", monitor]
    moves.names.append(name)
    processes.spawn(moves.lab.mark(name), line, moves.lab.logs / f"{name}.log")
    until(f"{name} answers", lambda: listens(folder / "qmp"))
    guests.adopt(name, host.name, str(folder / "qmp"))
    return name


def a_base(moves: Moves, name: str, pattern: int, host: str = "host-a") -> Path:
    made = image(moves.lab.host(host).guests / name, "qcow2", "64M")
    subprocess.run(["qemu-io", "-c", f"write -P {pattern} 8M {BASE_MIB}M", str(made)], check=True, capture_output=True)
    return made


def arrived(moves: Moves, name: str) -> Path:
    return moves.lab.host("host-b").guests / name / "disk.qcow2"


def described(path: Path) -> dict[str, Any]:
    said = subprocess.run(["qemu-img", "info", "-U", "--output=json", path], capture_output=True, check=True).stdout
    answer: dict[str, Any] = json.loads(said)
    return answer


def equal(one: Path, other: Path) -> bool:
    return subprocess.run(["qemu-img", "compare", "-U", one, other], capture_output=True).returncode == 0


def retired(job: Job) -> Path:
    path = job.disks[0].retired_path
    assert path is not None
    return Path(path)


def test_guests_that_move_at_the_same_time_share_their_base_there_and_it_is_copied_once(moves: Moves) -> None:
    base = a_base(moves, "shared.qcow2", 7)
    names = [on_base(moves, f"clone{number}", base) for number in range(3)]
    ended = [moves.ended(job.id) for job in [moves.submit(name, "host-b") for name in names]]
    for job in ended:
        moves.done(job)
    there = moves.lab.host("host-b").guests / base.name
    assert equal(base, there)
    copied = [job.file_copy.bytes_copied for job in ended if job.file_copy is not None and job.file_copy.bytes_copied]
    assert copied  # one at least; those that came second found it there, or waited for it
    for name, job in zip(names, ended, strict=True):
        info = described(arrived(moves, name))
        assert (info["backing-filename"], info["actual-size"] < BASE_MIB << 20) == (str(there), True)
        assert equal(retired(job), arrived(moves, name))
    assert {path.name for path in there.parent.iterdir()} >= {base.name, *names}
    assert not list(there.parent.glob(".*"))
    asyncio.run(_writes(arrived(moves, names[0]).with_name("qmp")))
    back = moves.move(names[0], "host-a")
    moves.done(back)
    home = Path(back.disks[0].destination_path)
    assert (back.disks[0].delta_bytes, described(home)["backing-filename"]) == (CHANGED_KIB << 10, str(base))
    assert equal(retired(back), home)


async def _writes(monitor_path: Path) -> None:
    async with connect(monitor_path) as monitor:
        said = await monitor.hmp(f'qemu-io virtio0 "write -P 5 9M {CHANGED_KIB}k"')
        assert not said or "wrote" in said, said


def test_another_base_is_refused_by_name_and_a_flattened_disk_needs_none(moves: Moves) -> None:
    base, other = a_base(moves, "base.qcow2", 7), a_base(moves, "base.qcow2", 8, "host-b")
    name, before = on_base(moves, "flat", base), other.read_bytes()
    with pytest.raises(PreconditionFailed, match=rf"{other} on host-b is not the file .* `--chain flatten`"):
        preflight.plan(guests.known_guest(name), "host-b")
    job = moves.move(name, "host-b", chain="flatten")
    moves.done(job)
    assert "backing-filename" not in described(arrived(moves, name))
    assert equal(retired(job), arrived(moves, name))
    assert other.read_bytes() == before
