import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import pytest

from lab.guest.blocks import BLOCK_SIZE
from lab.guest.boot_files import BootFiles, boot_files, default_cache
from lab.guest.command_line import command_line
from lab.guest.console import read_consoles
from lab.guest.spec import DiskSpec, GuestSpec, create_images
from lab.guest.verify import ImageRef, verify

MIB = 1 << 20
BOOT_DEADLINE = 60
DISKS = (
    DiskSpec(size_bytes=1024 * MIB),
    DiskSpec(size_bytes=64 * MIB, format="raw", attach="drive", bus="virtio-scsi"),
)

pytestmark = pytest.mark.guests


@dataclass(frozen=True)
class Stopped:
    """What a guest left: its images as they were in the middle and at the end, and its console."""

    spec: GuestSpec
    stale: Path

    def copied_to(self, directory: Path) -> GuestSpec:
        shutil.copytree(self.spec.directory, directory, ignore=shutil.ignore_patterns("*.sock"))
        return replace(self.spec, directory=directory)


def qmp(spec: GuestSpec, *commands: tuple[str, dict[str, object]]) -> list[object]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(spec.qmp_socket))
        with connection.makefile("rw") as stream:
            stream.readline()
            return [ask(stream, *command) for command in (("qmp_capabilities", {}), *commands)][1:]


def ask(stream: TextIO, command: str, arguments: dict[str, object]) -> object:
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    stream.flush()
    while "event" in (answer := json.loads(stream.readline())):
        pass
    return answer["return"]


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = BOOT_DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for: {what}"
        time.sleep(0.05)


def acknowledged(spec: GuestSpec, more_than: int) -> Callable[[], bool]:
    def condition() -> bool:
        if not spec.console.exists():
            return False
        transcript = read_consoles([spec.console])
        return all(transcript.acknowledged(disk) > more_than for disk in spec.disk_names)

    return condition


def image_refs(spec: GuestSpec) -> list[ImageRef]:
    return [
        ImageRef(spec.image(index), disk.format, name)
        for index, (disk, name) in enumerate(zip(spec.disks, spec.disk_names, strict=True))
    ]


@pytest.fixture(scope="module")
def files() -> BootFiles:
    return boot_files(default_cache())


@pytest.fixture(scope="module")
def stopped(files: BootFiles, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    directory, stale = tmp_path_factory.mktemp("guest"), tmp_path_factory.mktemp("stale")
    spec = GuestSpec(
        name="g",
        directory=directory,
        disks=DISKS,
        window_mib=2,
        write_rate=400,
        dirty_mib=16,
        dirty_rate=32,
        fill_mib=4,
    )
    create_images(spec)
    with running(command_line(spec, files)):
        wait_until(acknowledged(spec, 50), "the first acknowledgements")
        qmp(spec, ("stop", {}))
        for ref in image_refs(spec):
            shutil.copy(ref.path, stale)
        qmp(spec, ("cont", {}))
        wait_until(acknowledged(spec, 1000), "the ring to be overwritten")
        qmp(spec, ("stop", {}))
        report = verify(image_refs(spec), [spec.console])
        assert report.ok, report.problems
    return Stopped(spec, stale)


def test_the_images_of_a_guest_that_was_left_alone_hold_all_it_wrote(stopped: Stopped) -> None:
    report = verify(image_refs(stopped.spec), [stopped.spec.console])
    assert report.ok, report.problems
    assert [disk.name for disk in report.disks] == ["vda", "sda"]
    assert all(disk.acknowledged > 1000 and disk.blocks_checked == 6 * 256 for disk in report.disks)
    assert report.ticks > 10
    assert 100 <= report.longest_gap_ms < 5000


def damage(spec: GuestSpec, position: int, size: int) -> None:
    """Zeroes the end of a block of the raw disk."""
    with spec.image(1).open("r+b") as image:
        image.seek((position + 1) * BLOCK_SIZE - size)
        image.write(bytes(size))


@pytest.mark.parametrize("position", [0, 7, 511, 512, 1535])
def test_a_zeroed_block_is_missing(stopped: Stopped, tmp_path: Path, position: int) -> None:
    spec = stopped.copied_to(tmp_path / "guest")
    damage(spec, position, BLOCK_SIZE)
    report = verify(image_refs(spec), [spec.console])
    assert [(disk.missing, disk.torn) for disk in report.disks] == [(0, 0), (1, 0)]
    assert "sda: 1 blocks are missing" in report.problems[0]


@pytest.mark.parametrize("position", [7, 600])
def test_a_block_half_overwritten_is_torn(stopped: Stopped, tmp_path: Path, position: int) -> None:
    spec = stopped.copied_to(tmp_path / "guest")
    damage(spec, position, BLOCK_SIZE // 2)
    report = verify(image_refs(spec), [spec.console])
    assert [(disk.missing, disk.torn) for disk in report.disks] == [(0, 0), (0, 1)]
    assert not report.ok


def test_a_stale_image_misses_what_was_acknowledged_after_it(stopped: Stopped) -> None:
    spec = replace(stopped.spec, directory=stopped.stale)
    report = verify(image_refs(spec), [stopped.spec.console])
    assert not report.ok
    assert all(disk.missing > 100 and disk.torn == 0 for disk in report.disks)


def test_swapped_images_are_noticed(stopped: Stopped) -> None:
    first, second = image_refs(stopped.spec)
    swapped = [replace(first, disk=second.disk), replace(second, disk=first.disk)]
    assert all(disk.missing > 500 for disk in verify(swapped, [stopped.spec.console]).disks)


def test_an_image_that_cannot_be_read_is_a_problem(stopped: Stopped) -> None:
    first, second = image_refs(stopped.spec)
    report = verify([first, replace(second, path=Path("/nowhere"))], [stopped.spec.console])
    assert "cannot read /nowhere" in report.problems[0]


def split_console(spec: GuestSpec, directory: Path, overlap: int) -> list[Path]:
    """The console cut in mid-line, as by a migration; with an overlap both hosts ran the guest."""
    content = spec.console.read_bytes()
    middle = content.index(b"\nack vda", len(content) // 2) + 6
    parts = [directory / "first", directory / "second"]
    parts[0].write_bytes(content[: middle + overlap])
    parts[1].write_bytes(content[middle:])
    return parts


def test_a_line_cut_by_a_migration_is_joined(stopped: Stopped, tmp_path: Path) -> None:
    report = verify(image_refs(stopped.spec), split_console(stopped.spec, tmp_path, overlap=0))
    assert report.ok, report.problems


def test_two_running_copies_are_noticed(stopped: Stopped, tmp_path: Path) -> None:
    report = verify(image_refs(stopped.spec), split_console(stopped.spec, tmp_path, overlap=200))
    assert any("two copies of the guest were running" in problem for problem in report.problems)


def test_a_guest_silent_after_its_migration_is_noticed(stopped: Stopped, tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.touch()
    problems = verify(image_refs(stopped.spec), [stopped.spec.console, silent]).problems
    assert len(problems) == 3
    assert "console 2 shows no tick" in problems[0]


@pytest.mark.parametrize("line", ["error writing vda 7 Input/output error", "corrupt page 3", "BUG: whatever"])
def test_what_the_guest_complains_about_is_a_problem(stopped: Stopped, tmp_path: Path, line: str) -> None:
    console = tmp_path / "console.log"
    *whole, _ = stopped.spec.console.read_text().splitlines(keepends=True)
    console.write_text("".join([*whole, line + "\n"]))
    assert f"the guest printed: {line}" in verify(image_refs(stopped.spec), [console]).problems


def test_a_real_migration_keeps_the_guest_whole(files: BootFiles, tmp_path: Path) -> None:
    source = GuestSpec(name="g", directory=tmp_path / "a", disks=DISKS, dirty_mib=32, dirty_rate="max")
    destination = replace(source, directory=tmp_path / "b")
    for spec in (source, destination):
        spec.directory.mkdir()
    create_images(source)
    for index in range(len(DISKS)):  # one set of images for both, as on shared storage
        destination.image(index).symlink_to(source.image(index))
    uri = f"unix:{tmp_path}/migrate.sock"
    with running(command_line(source, files)), running([*command_line(destination, files), "-incoming", uri]):
        wait_until(acknowledged(source, 50), "the first acknowledgements")
        qmp(source, ("migrate-set-parameters", {"downtime-limit": 1000}), ("migrate", {"uri": uri}))
        wait_until(destination.console.exists, "the console of the destination")
        wait_until(acknowledged(destination, 100), "the guest to go on at the destination")
        qmp(destination, ("stop", {}))
        report = verify(image_refs(destination), [source.console, destination.console])
    assert report.ok, report.problems
