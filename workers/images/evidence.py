"""Evidence that nobody has written to an image file since it was last looked at.

The source's switchover process takes it once its QEMU has let the images go for good. What it imports starts quickly.
"""

import hashlib
import os
import stat
from pathlib import Path

from models.plain import Evidence
from workers import files

SAMPLES = 64
"""Evenly spread over the file, its first and last bytes among them."""
SAMPLE_BYTES = 16 << 10


def of(path: Path) -> Evidence | None:
    """What a file is now, after all that was written to it is on its disk; None: it is no file, or none is there.

    Raises:
        OSError, UnsafePath: it cannot be read.
    """
    try:
        descriptor = files.opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        there = os.fstat(descriptor)
        if not stat.S_ISREG(there.st_mode):
            return None  # a block device does not tell when it was written to
        os.fsync(descriptor)
        digest = _digest(descriptor, there.st_size)
        now = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return Evidence(
        device=now.st_dev,
        inode=now.st_ino,
        size_bytes=now.st_size,
        modified_ns=now.st_mtime_ns,
        digest=digest,
    )


def _digest(descriptor: int, size: int) -> str:
    found = hashlib.sha256()
    last = max(size - SAMPLE_BYTES, 0)
    for offset in sorted({last * number // (SAMPLES - 1) for number in range(SAMPLES)}):
        found.update(os.pread(descriptor, SAMPLE_BYTES, offset))
    return found.hexdigest()


def differs(then: Evidence, now: Evidence | None) -> str | None:
    """What shows that it is not the same any more; None: nothing."""
    if now is None:
        return "it is gone"
    if (then.device, then.inode) != (now.device, now.inode):
        return "another file has taken its place"
    if then.size_bytes != now.size_bytes:
        return "its size has changed"
    if then.modified_ns != now.modified_ns or then.digest != now.digest:
        return "somebody has written to it"
    return None
