"""What a guest does, as far as it matters for a move."""

from pydantic import Field

from models.contracts import Versioned
from models.plain import GRANULARITY

SMALL_WRITE = 4096
"""Bytes of a write, where only the bytes of all of them are known."""


class Activity(Versioned):
    """What a guest did while its host looked: each byte that it writes during a move has to be sent again."""

    seconds: float = Field(gt=0)
    """For how long it was looked at."""
    written_per_s: float = 0.0
    """Bytes per second to its writable disks."""
    writes_per_s: float | None = None
    """In so many requests per second; None: an earlier version did not count them."""
    dirty_per_s: float | None = None
    """Bytes of its RAM that it changes per second, as QEMU estimates it; None: this QEMU does not tell."""

    @property
    def dirtied_per_s(self) -> float:
        """Bytes of its disks that a mirror has to send again per second, if no two writes are beside each other."""
        writes = self.written_per_s / SMALL_WRITE if self.writes_per_s is None else self.writes_per_s
        return max(self.written_per_s, writes * GRANULARITY)
