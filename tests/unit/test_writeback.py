"""That what a copy writes does not wait in memory until somebody flushes it."""

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import MIB, until
from workers.disks import writeback
from workers.process import processes
from workers.process.processes import Process

CACHESTAT = 451
WRITTEN_WITHIN_S = 5.0
"""By itself Linux leaves it for half a minute (`dirty_expire_centisecs`)."""


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Pages(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "lately_evicted"))


def _unwritten_pages(path: Path) -> int:
    pages, everything = _Pages(), _Range(0, 0)
    with path.open("rb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(CACHESTAT, file.fileno(), ctypes.byref(everything), ctypes.byref(pages), 0):
            pytest.skip("the kernel does not tell (cachestat is from 6.5)")
    return int(pages.dirty + pages.writeback)


def _is_kept_up() -> bool:
    return any(thread.name.startswith("writeback") for thread in threading.enumerate())


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Process]:
    argv = [sys.executable, "-c", "import time; time.sleep(1000)"]
    process = processes.spawn(f"{tmp_path}/writer", argv, tmp_path / "log")
    yield process
    process.kill()


def test_what_is_written_to_an_image_goes_to_the_disk_before_anybody_flushes_it(
    tmp_path: Path, writer: Process
) -> None:
    file_system = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True)
    if file_system.stdout.strip() in {"tmpfs", "ramfs"}:
        pytest.skip("there is no disk below it")
    image = tmp_path / "image"
    image.touch()
    writeback.keep_up(writer, [str(image)])
    with image.open("ab") as file:
        file.write(os.urandom(8 * MIB))
    until("it is written", lambda: not _unwritten_pages(image), timeout_s=WRITTEN_WITHIN_S)


def test_it_ends_with_the_process_that_writes(tmp_path: Path, writer: Process) -> None:
    image = tmp_path / "image"
    image.touch()
    writeback.keep_up(writer, [str(image)])
    assert _is_kept_up()
    writer.kill()
    until("it ended", lambda: not _is_kept_up())


def test_an_image_that_is_gone_harms_nobody(tmp_path: Path, writer: Process) -> None:
    writeback.keep_up(writer, [str(tmp_path / "gone")])
    until("it ended", lambda: not _is_kept_up())
    assert writer.alive
