"""File systems that get full, for the folder of a lab host's guests."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import MIB, Moves, until

LARGE = 1024 * MIB
PAGE = 4096


@dataclass(frozen=True)
class SmallFolder:
    """A folder on a file system of its own, whose size can be changed."""

    path: Path

    def leave(self, size_bytes: int) -> None:
        """No more room than this, whatever is being written just now."""
        until("the rest is gone", lambda: self._resized(shutil.disk_usage(self.path).used + size_bytes))

    def enlarge(self) -> None:
        """Plenty of room."""
        assert self._resized(LARGE)

    def reserve(self, file: Path, size_bytes: int) -> None:
        """Have the file system keep so much room for what is appended to a file."""
        length = file.stat().st_size + size_bytes
        subprocess.run(["fallocate", "--keep-size", "--length", str(length), str(file)], check=True)

    def _resized(self, size_bytes: int) -> bool:
        size = -(-size_bytes // PAGE) * PAGE
        done = subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], capture_output=True, check=False)
        return done.returncode == 0


@contextmanager
def guests_in_a_small_folder(moves: Moves, host: str) -> Iterator[SmallFolder]:
    """The folder of a host's guests is a tmpfs; the guests of the test are ended before it goes."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = moves.lab.host(host).guests
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={LARGE}", "drover-test", str(folder)], check=True)
    try:
        yield SmallFolder(folder)
    finally:
        moves.end()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
