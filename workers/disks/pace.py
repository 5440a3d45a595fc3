"""How fast a job's disks are copied, and how fast its guest writes them anew, by several looks at its mirrors."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.documents import Pace
from workers.qemu.block import Mirror

OVER_S = 10.0
"""Rates are means over this time: a single second of a limited mirror says little."""


class RateLimiter:
    """Keeps work to a rate, which may change at any time."""

    def __init__(self) -> None:
        self.free_at = time.monotonic()

    async def keep(self, done: int, rate: int) -> None:
        """Wait until so many bytes may have been done, at so many bytes per second; 0: no limit."""
        now = time.monotonic()
        self.free_at = max(self.free_at, now - 0.1) + (done / rate if rate else 0.0)
        if self.free_at > now:
            await asyncio.sleep(self.free_at - now)


@dataclass
class Meter:
    """The looks of the last seconds: when, bytes copied so far, bytes to copy so far."""

    looks: deque[tuple[float, int, int]] = field(default_factory=deque)

    def pace(self, states: Mapping[str, Mirror], limit_per_s: int, at: float | None = None) -> Pace:
        """Take a look in. A mirror that begins anew begins a new measurement."""
        at = time.monotonic() if at is None else at
        copied = sum(mirror.copied_bytes for mirror in states.values())
        total = sum(mirror.total_bytes for mirror in states.values())
        if not total:  # QEMU has yet to look through the disks
            return Pace(limit_per_s=limit_per_s)
        if self.looks and (copied < self.looks[-1][1] or total < self.looks[-1][2]):
            self.looks.clear()
        self.looks.append((at, copied, total))
        while len(self.looks) > 2 and self.looks[1][0] <= at - OVER_S:
            self.looks.popleft()
        return self._mean(limit_per_s)

    def _mean(self, limit_per_s: int) -> Pace:
        (begun, copied, total), (now, copied_now, total_now) = self.looks[0], self.looks[-1]
        if now <= begun:
            return Pace(limit_per_s=limit_per_s)
        seconds = now - begun
        return Pace(
            copied_per_s=round((copied_now - copied) / seconds, 1),
            written_per_s=round((total_now - total) / seconds, 1),
            limit_per_s=limit_per_s,
        )
