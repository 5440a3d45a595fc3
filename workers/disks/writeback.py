"""Starts writeback of an image while it is copied.

Linux would keep up to a tenth of the host's memory of it, and a mirror is ready only when QEMU has flushed all that is
left: the copy would wait for the disk at its end, and so would every other user of that disk.
This is a hint to the kernel only: where it ends early, nothing is lost. What it saves: docs/explanation/performance.md.
"""

import ctypes
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from workers import files
from workers.process.processes import Process

EVERY_S = 0.25
WRITE = 2
"""SYNC_FILE_RANGE_WRITE: begin to write what is dirty, wait for nothing."""

_begin_to_write = ctypes.CDLL(None).sync_file_range  # Python has no name for it
_begin_to_write.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def keep_up(writer: Process, images: Sequence[str]) -> None:
    """Start writeback of these files every 250 ms, while this process and the writer live."""
    threading.Thread(target=_keep_up, args=(writer, images), name=f"writeback {writer.pid}", daemon=True).start()


def _keep_up(writer: Process, images: Sequence[str]) -> None:
    with ExitStack() as stack, suppress(OSError, files.UnsafePath):
        opened = [stack.enter_context(os.fdopen(files.opened(Path(image), os.O_RDONLY))) for image in images]
        while not writer.wait(EVERY_S):
            for file in opened:
                _begin_to_write(file.fileno(), 0, 0, WRITE)
