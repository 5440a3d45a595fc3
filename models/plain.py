"""What switchover processes write and are told, within documents of others. No pydantic: it takes them long to load."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GRANULARITY = 1 << 16
"""Bytes in which a mirror keeps its records: the least that one write of the guest has it send again."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one image file was at one moment: it shows whether somebody has written to it since."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    digest: str
    """Of samples of its content."""


@dataclass(frozen=True, kw_only=True)
class SlowedDrive:
    """A drive whose writes are limited for a move alone: what tells its own limits from those that were set for the
    move, as `block_set_io_throttle` takes them.
    """

    before: dict[str, Any]
    """Its own."""
    set: Sequence[dict[str, Any]]
    """What was set for the move, each time."""
