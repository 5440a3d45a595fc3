"""RAM that changes as fast as it is sent is found within a minute or so, and answered rung by rung.

QEMU slows the guest by itself (auto-converge). Where that does not help, the downtime limit is raised, as far as the
job allows; then an operator is asked while the RAM is still sent; then the attempt is given up and the copy of the
disks is kept. Postcopy is no rung: the destination would run before it holds all of the guest, and whichever host died
then would take the guest with it. Pure: the clock is an argument, in seconds.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from drover import words
from models.documents import RamProgress

STUCK_S = 30.0
"""So long, and so many passes, what is left has to stay as it is."""
PASSES = 3
BETTER = 0.9
"""Of the shortest pause so far: less is an improvement."""
SPARE = 1.25
"""What is left varies from pass to pass."""
SLOWED_HARD = 90
"""Percent of its time that a guest does not run."""


class Rung(enum.StrEnum):
    """What was done about it."""

    SLOWED = "slowed"
    LONGER = "longer"
    ASKED = "asked"
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class Step:
    """A rung that was just taken, in a sentence."""

    rung: Rung
    sentence: str


@dataclass
class Ladder:
    """One attempt at sending the RAM of a guest."""

    guest: str
    job: int
    target_ms: int
    most_ms: int
    asked_s: float
    """For this long an operator is asked before the attempt is given up."""
    limit_ms: int = 0
    """What the guest may be paused for now."""
    asks: str | None = None
    """What an operator is asked."""
    gives_up: str = ""
    """Why the attempt is to be called off."""
    _least_ms: int | None = None
    _since_s: float = 0.0
    _since_pass: int = 0
    _slowed: int = 0

    def __post_init__(self) -> None:
        self.limit_ms = self.limit_ms or self.target_ms

    def obey(self, target_ms: int, most_ms: int, at_s: float) -> None:
        """An operator has changed what is allowed: what was asked is answered."""
        if (target_ms, most_ms) != (self.target_ms, self.most_ms):
            self.target_ms, self.most_ms, self.limit_ms, self.asks = target_ms, most_ms, target_ms, None
            self._since_s = at_s

    def look(self, ram: RamProgress, at_s: float) -> Iterator[Step]:
        """The rungs that are taken because of this progress."""
        if ram.throttle_percent and (not self._slowed or self._slowed < SLOWED_HARD <= ram.throttle_percent):
            yield self._slow(ram.throttle_percent)
        needed, passes = ram.expected_downtime_ms, ram.passes or 0
        if passes < 2 or not needed:
            return  # the first pass sends all there is
        if self._least_ms is None or needed < BETTER * self._least_ms:
            self._least_ms, self._since_s, self._since_pass = needed, at_s, passes
        elif at_s - self._since_s >= self._patience_s and passes - self._since_pass >= PASSES:
            self._since_s, self._since_pass = at_s, passes
            yield self._climb(self._least_ms, ram)

    @property
    def _patience_s(self) -> float:
        return self.asked_s if self.asks else STUCK_S

    def _slow(self, percent: int) -> Step:
        self._slowed = percent
        return Step(Rung.SLOWED, f"QEMU slows the CPUs of {self.guest} by {percent} %: its RAM changes too fast")

    def _climb(self, least_ms: int, ram: RamProgress) -> Step:
        needed_ms = int(SPARE * least_ms) + 1
        why = (
            f"the RAM of {self.guest} changes as fast as it is sent ({words.rate(ram.bytes_per_s)}): what is left "
            f"takes a pause of about {needed_ms} ms"
        )
        if self.limit_ms < self.most_ms:
            self.limit_ms = min(max(needed_ms, 2 * self.limit_ms), self.most_ms)
            return Step(Rung.LONGER, f"{why}; {self.limit_ms} ms are allowed from now on, of {self.most_ms} at most")
        if self.asks is None:
            self.asks = (
                f"{why}, and {self.limit_ms} ms are allowed: `drover job set {self.job} --max-downtime-ms "
                f"{needed_ms}` allows it, `drover job complete-now {self.job}` completes it at once, `drover job "
                f"cancel {self.job}` ends it"
            )
            return Step(Rung.ASKED, self.asks)
        self.gives_up = f"{why}, and nobody allowed it; the guest runs on, its disks are kept in sync"
        return Step(Rung.GIVEN_UP, self.gives_up)
