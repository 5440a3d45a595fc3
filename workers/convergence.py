"""RAM that changes as fast as it is sent is found within a minute or so, and answered measure by measure.

QEMU slows the guest by itself (auto-converge). Where that does not help, the measures of the job are taken in their
order: the downtime limit is raised, as far as the job allows; an operator is asked while the RAM is still sent; the
attempt is given up and the copy of the disks is kept. Pure: the clock is an argument, in seconds.

Postcopy is no measure. The destination would have to run before it holds all of the guest, so from that moment on
neither host could go on alone. Seen with 10.0.2: in `postcopy-active` the source answers `migrate_cancel` with
"Postcopy migration in progress, cannot cancel" and `cont` with "Migration is not finalized yet"; once the source has
died the destination stays `postcopy-paused`, with the rest of the RAM lost. A guest must outlive a host that it leaves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from drover import words
from models.documents import LADDER, Measure, RamProgress
from models.event_action import EventAction

STUCK_S = 30.0
"""So long, and so many passes, what is left has to stay as it is."""
PASSES = 3
BETTER = 0.9
"""Of the shortest pause so far: less is an improvement."""
SPARE = 1.25
"""What is left varies from pass to pass."""
SLOWED_HARD = 90
"""Percent of its time that a guest does not run."""
ACTIONS = {
    Measure.SLOW_CPU: EventAction.SLOWED,
    Measure.SLOW_WRITES: EventAction.SLOWED_WRITES,
    Measure.LONGER: EventAction.LONGER,
    Measure.ASK: EventAction.ASKED,
    Measure.GIVE_UP: EventAction.GIVEN_UP,
}
"""What events are called that tell of a measure."""


@dataclass(frozen=True)
class Taken:
    """A measure that was just taken, in a sentence."""

    measure: Measure
    sentence: str


@dataclass
class Escalation:
    """One attempt at sending the RAM of a guest."""

    guest: str
    job: int
    target_ms: int
    most_ms: int
    asked_s: float
    """For this long an operator is asked before the next measure."""
    measures: tuple[Measure, ...] = LADDER
    """In their order."""
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
    _at: int = 0
    """Which of the measures is next."""

    def __post_init__(self) -> None:
        self.limit_ms = self.limit_ms or self.target_ms

    def obey(self, target_ms: int, most_ms: int, at_s: float) -> None:
        """An operator has changed what is allowed: what was asked is answered."""
        if (target_ms, most_ms) != (self.target_ms, self.most_ms):
            self.target_ms, self.most_ms, self.limit_ms, self.asks = target_ms, most_ms, target_ms, None
            self._since_s, self._at = at_s, 0

    def look(self, ram: RamProgress, at_s: float) -> Iterator[Taken]:
        """The measures that are taken because of this progress."""
        if ram.throttle_percent and (not self._slowed or self._slowed < SLOWED_HARD <= ram.throttle_percent):
            yield self._slow(ram.throttle_percent)
        needed, passes = ram.expected_downtime_ms, ram.passes or 0
        if passes < 2 or not needed:
            return  # the first pass sends all there is
        if self._least_ms is None or needed < BETTER * self._least_ms:
            self._least_ms, self._since_s, self._since_pass = needed, at_s, passes
        elif at_s - self._since_s >= self._patience_s and passes - self._since_pass >= PASSES:
            self._since_s, self._since_pass = at_s, passes
            yield from self._escalate(self._least_ms, ram)

    @property
    def _patience_s(self) -> float:
        return self.asked_s if self.asks else STUCK_S

    def _slow(self, percent: int) -> Taken:
        self._slowed = percent
        sentence = f"QEMU slows the CPUs of {self.guest} by {percent} %: its RAM changes too fast"
        return Taken(Measure.SLOW_CPU, sentence)

    def _escalate(self, least_ms: int, ram: RamProgress) -> Iterator[Taken]:
        needed_ms = int(SPARE * least_ms) + 1
        why = (
            f"the RAM of {self.guest} changes as fast as it is sent ({words.rate(ram.bytes_per_s)}): what is left "
            f"takes a pause of about {needed_ms} ms"
        )
        for measure in self.measures[self._at :]:
            if sentence := self._take(measure, why, needed_ms):
                yield Taken(measure, sentence)
                return
            self._at += 1

    def _take(self, measure: Measure, why: str, needed_ms: int) -> str | None:
        """None: it has nothing more to give."""
        if measure is Measure.LONGER and self.limit_ms < self.most_ms:
            self.limit_ms, self.asks = min(max(needed_ms, 2 * self.limit_ms), self.most_ms), None
            return f"{why}; {self.limit_ms} ms are allowed from now on, of {self.most_ms} at most"
        if measure is Measure.ASK and self.asks is None:
            self.asks = (
                f"{why}, and {self.limit_ms} ms are allowed: `drover job set {self.job} --max-downtime-ms "
                f"{needed_ms}` allows it, `drover job complete-now {self.job}` completes it at once, `drover job "
                f"cancel {self.job}` ends it"
            )
            return self.asks
        if measure is Measure.GIVE_UP:
            self.gives_up = f"{why}, and nobody allowed it; the guest runs on, its disks are kept in sync"
            return self.gives_up
        return None
