"""Images that a launcher opened for its QEMU are told by their paths, or refused with the reason why they have none."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.preflight import Check
from workers.preflight import handed_images
from workers.process import processes

NODE = "driver=qcow2,node-name=d,file.driver=file,file.filename="


@contextmanager
def opened(*paths: Path) -> Iterator[tuple[processes.Process, list[int]]]:
    """A process that was handed these files."""
    numbers = [os.open(path, os.O_RDWR) for path in paths]
    with subprocess.Popen(["sleep", "60"], pass_fds=numbers) as child:
        process = processes.process(child.pid)
        assert process is not None
        yield process, numbers
        child.kill()
    for number in numbers:
        os.close(number)


def named(process: processes.Process, argv: list[str], numbers: list[int]) -> tuple[list[str], list[Check]]:
    """Set 2 holds these descriptors."""
    sets = [{"fdset-id": 2, "fds": [{"fd": number, "opaque": "disk"} for number in numbers]}]
    images = handed_images.read(process, sets)
    return handed_images.left(handed_images.by_path(["qemu", *argv], images), images)


@pytest.mark.parametrize(
    ("option", "by_path"),
    [
        (["-blockdev", NODE + "/dev/fdset/2"], ["-blockdev", NODE + "{path}"]),
        (["-drive", "file=/dev/fdset/2,if=virtio"], ["-drive", "file={path},if=virtio"]),
        (["-hda", "/dev/fdset/2"], ["-hda", "{path}"]),
        (
            ["-blockdev", '{"driver": "file", "filename": "/dev/fdset/2"}'],
            ["-blockdev", '{{"driver": "file", "filename": "{path}"}}'],
        ),
    ],
)
def test_an_image_that_a_launcher_opened_is_told_by_its_path(
    tmp_path: Path, option: list[str], by_path: list[str]
) -> None:
    path = tmp_path / "disk"
    path.touch()
    with opened(path) as (process, numbers):
        handed = ["-add-fd", "fd=30,set=2,opaque=disk", *option, "-add-fd", "fd=31,set=5", "-S"]
        found = named(process, handed, numbers)
    assert found == (["qemu", *(word.format(path=path) for word in by_path), "-S"], [])


def test_an_image_without_a_path_is_refused_with_the_reason(tmp_path: Path) -> None:
    gone, moved, other = (tmp_path / name for name in ("gone", "moved", "other"))
    for path in (gone, moved, other):
        path.touch()
    memory = os.memfd_create("x")

    def refusal(process: processes.Process, *numbers: int) -> str:
        line = ["-add-fd", "fd=30,set=2", "-drive", "file=/dev/fdset/2"]
        argv, (check,) = named(process, line, list(numbers))
        assert argv == ["qemu", *line]
        return check.seen

    with opened(gone, moved, Path(f"/proc/self/fd/{memory}"), other) as (process, numbers):
        gone.unlink()
        moved.rename(tmp_path / "elsewhere")
        assert named(process, ["-hda", "/dev/fdset/2"], numbers[1:2]) == (["qemu", "-hda", f"{tmp_path}/elsewhere"], [])
        assert f"its file was deleted ({gone})" in refusal(process, numbers[0])
        assert "it is in memory alone" in refusal(process, numbers[2])
        assert "taken back" in refusal(process)
        assert "of several files" in refusal(process, numbers[0], numbers[3])
    os.close(memory)


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")
def test_an_image_of_another_mount_namespace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    script = f"mount -t tmpfs none {tmp_path}; exec 9<>{tmp_path}/disk; echo; exec sleep 60"
    with subprocess.Popen(["unshare", "--mount", "bash", "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = processes.process(child.pid)
        assert process is not None
        _, (check,) = named(process, ["-hda", "/dev/fdset/2"], [9])
        child.kill()
    assert f"it is not at {tmp_path}/disk on this host" in check.seen
