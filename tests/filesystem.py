"""File systems that get full, for the folder of a lab host's guests."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import MIB, Moves

LARGE = 1024 * MIB


@dataclass(frozen=True)
class SmallFolder:
    """A folder on a file system of its own, whose size can be changed."""

    path: Path

    def leave(self, size_bytes: int) -> None:
        """No more room than this."""
        self._resize(shutil.disk_usage(self.path).used + size_bytes)

    def enlarge(self) -> None:
        """Plenty of room."""
        self._resize(LARGE)

    def _resize(self, size_bytes: int) -> None:
        pages = -(-size_bytes // 4096)
        subprocess.run(["mount", "-o", f"remount,size={pages * 4096}", str(self.path)], check=True)


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
