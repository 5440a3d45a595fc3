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
OBEYED_WITHIN_S = 0.5
"""So long somebody may wait by a rate that does not hold any more."""
SAVED_S = 0.1
"""So much of the rate may be made up for after a while without work."""


RECORD_S = 1.0
"""What is shown of a job under way is written to the database at most this often."""


class Recording:
    """Whether it is time to write down once more how far something is."""

    def __init__(self, every_s: float = RECORD_S) -> None:
        self.every_s, self.next_at = every_s, 0.0

    @property
    def left_s(self) -> float:
        """Until it is."""
        return max(self.next_at - time.monotonic(), 0.0)

    def due(self) -> bool:
        """It is; then not again for so long."""
        if self.left_s:
            return False
        self.next_at = time.monotonic() + self.every_s
        return True


class RateLimiter:
    """Keeps work to a rate, which may be changed at any time: who waits then waits as long as the new one asks for."""

    def __init__(self, bytes_per_s: int = 0) -> None:
        self.bytes_per_s = bytes_per_s
        """0: no limit."""
        self._owed = 0.0
        self._paid_at = time.monotonic()
        self._turn = asyncio.Lock()

    async def keep(self, done: int) -> None:
        """Wait until so many bytes more may have been done. Several who wait are let through one after the other."""
        async with self._turn:
            self._pay()
            self._owed += done
            while self.bytes_per_s and self._owed > 0:
                await asyncio.sleep(min(self._owed / self.bytes_per_s, OBEYED_WITHIN_S))
                self._pay()

    def _pay(self) -> None:
        now = time.monotonic()
        paid, saved = (now - self._paid_at) * self.bytes_per_s, SAVED_S * self.bytes_per_s
        self._owed = max(self._owed - paid, -saved) if self.bytes_per_s else 0.0
        self._paid_at = now


@dataclass
class Meter:
    """The looks of the last seconds: when, bytes copied so far, bytes to copy so far."""

    looks: deque[tuple[float, int, int]] = field(default_factory=deque)

    def pace(self, states: Mapping[str, Mirror], limit_per_s: int, at: float | None = None) -> Pace:
        """Take a look at mirrors in. One that begins anew begins a new measurement."""
        copied = sum(mirror.copied_bytes for mirror in states.values())
        total = sum(mirror.total_bytes for mirror in states.values())
        return self.look(copied, total, limit_per_s, at)

    def look(self, copied: int, total: int, limit_per_s: int, at: float | None = None) -> Pace:
        """Likewise at what is copied otherwise."""
        at = time.monotonic() if at is None else at
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
