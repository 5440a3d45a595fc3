"""When each of several moves begins and ends, if each begins as soon as the limits let it. No I/O.

Moves that are under way together share the budgets, and one that would not end within the window waits for the next.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from models.documents import Window
from models.fleet import Limits
from workflows import schedule
from workflows.capacity import Slots
from workflows.drain.placement import Placement
from workflows.estimate import Speed, Way, copied_per_s, last_stretch_s


@dataclass(frozen=True, kw_only=True)
class Times:
    """When one move takes place, in seconds from now."""

    begins_s: float
    ends_s: float

    @property
    def takes_s(self) -> float:
        """How long."""
        return self.ends_s - self.begins_s


@dataclass(frozen=True, kw_only=True)
class Open:
    """The hours in which moves may be under way, and what time it is now."""

    window: Window
    now: datetime

    def delay_s(self, at_s: float, takes_s: float) -> float:
        """How long what takes so many seconds has to wait at a time; 0 if it may begin."""
        at = self.now + timedelta(seconds=at_s)
        wait = schedule.obstacle(at, takes_s, window=self.window)
        if wait is None or wait.for_good:
            return 0.0
        allowed = schedule.Window.of(self.window)
        opens, closes = allowed.at_or_after(at)
        if opens <= at:
            opens, _ = allowed.at_or_after(closes)
        return (opens - at).total_seconds()


def way_of(placement: Placement) -> Way:
    """The way of a guest that a drain moves."""
    candidate = placement.candidate
    return Way(
        source=candidate.source,
        destination=placement.destination,
        guest=candidate.name,
        asked_bytes_per_s=candidate.asked_bytes_per_s,
        activity=candidate.activity,
    )


def total_s(placements: Iterable[Placement], speed: Speed, limits: Limits) -> float:
    """How long all of it takes."""
    return max((one.ends_s for one in timetable(placements, speed, limits).values()), default=0.0)


def timetable(
    placements: Iterable[Placement],
    speed: Speed,
    limits: Limits,
    hours: Open | None = None,
) -> Mapping[str, Times]:
    """{guest: when it moves}, in the order given. One that the limits never let begin is missing."""
    waiting, under_way, found = list(placements), list[_Going](), dict[str, Times]()
    at_s = 0.0
    while waiting or under_way:
        delays = _begin(waiting, under_way, _Terms(speed, limits, hours), at_s)
        if not under_way:
            if not delays:
                break  # the limits let nothing begin: what waits has no time
            at_s += min(delays)
            continue
        shares = _shares(under_way, speed)
        rates = [_rate(one, share, speed) for one, share in zip(under_way, shares, strict=True)]
        step_s = min(one.left / rate for one, rate in zip(under_way, rates, strict=True))
        at_s += step_s
        for one, rate, share in zip(under_way, rates, shares, strict=True):
            one.advance(step_s * rate, share)
        for one in [one for one in under_way if not one.parts]:
            under_way.remove(one)
            found[one.placement.candidate.name] = Times(begins_s=one.begun_s, ends_s=at_s)
    return found


@dataclass(frozen=True)
class _Terms:
    speed: Speed
    limits: Limits
    hours: Open | None


@dataclass
class _Going:
    """A move that has begun: what is left of it, part by part."""

    placement: Placement
    way: Way
    begun_s: float
    parts: list[tuple[str, float]] = field(default_factory=list)
    """(`disks`, bytes), (`stretch`, seconds), (`ram`, bytes), (`time`, seconds)."""

    @property
    def left(self) -> float:
        return self.parts[0][1]

    def advance(self, done: float, share_per_s: int) -> None:
        """So much more is done, the last of it under this limit."""
        what, left = self.parts[0]
        self.parts[0] = (what, left - done)
        if left - done > ALMOST_NOTHING * max(left, 1.0):
            return
        self.parts.pop(0)
        if what == "disks" and (more_s := last_stretch_s(share_per_s, self.way.dirtied_per_s)):
            self.parts.insert(0, ("stretch", more_s))

    @property
    def sends(self) -> bool:
        return self.parts[0][0] != "time"


ALMOST_NOTHING = 1e-9


def _begin(waiting: list[Placement], under_way: list[_Going], terms: _Terms, at_s: float) -> list[float]:
    """Begin what may; returns for how long others have to wait for their window."""
    slots, delays, full = Slots(limits=terms.limits), list[float](), set[tuple[str, str]]()
    for one in under_way:
        slots.reserve(one.way.source, one.way.destination)
    for placement in list(waiting):
        pair = placement.candidate.source, placement.destination
        if pair in full:
            continue
        if slots.lacking(*pair) is not None:
            full.add(pair)
            continue
        way = way_of(placement)
        if terms.hours is not None:
            delay_s = terms.hours.delay_s(at_s, terms.speed.of(way).move_s(placement.candidate.size))
            if delay_s:
                delays.append(delay_s)
                continue
        waiting.remove(placement)
        slots.reserve(*pair)
        under_way.append(_Going(placement, way, at_s, _parts(placement, way, terms.speed)))
    return delays


def _parts(placement: Placement, way: Way, speed: Speed) -> list[tuple[str, float]]:
    size, expected = placement.candidate.size, speed.of(way)
    parts = [("disks", float(size.written_bytes)), ("ram", expected.ram_bytes(size)), ("time", speed.fixed_s)]
    return [(what, amount) for what, amount in parts if amount > 0] or [("time", ALMOST_NOTHING)]


def _shares(under_way: Sequence[_Going], speed: Speed) -> list[int]:
    """What each may send now, in bytes per second; 0: no limit, or it sends nothing."""
    shares = speed.budgets.shares({number: one.way for number, one in enumerate(under_way) if one.sends})
    return [shares.get(number, 0) for number in range(len(under_way))]


def _rate(one: _Going, share: int, speed: Speed) -> float:
    """How fast its present part goes on: seconds per second, or bytes per second."""
    what, _ = one.parts[0]
    if what == "disks":
        return copied_per_s(speed.link_per_s(one.way), share, one.way)
    return speed.ram_caught_up_per_s(one.way, share) if what == "ram" else 1.0
