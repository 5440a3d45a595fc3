"""When things may happen: a first moment, a nightly window, a repetition. Pure; the clock is an argument.

Times are read in a named time zone, so that 22:00 stays 22:00 when the clocks change. A time that they skip is the
moment at which they do, and one that comes twice is the first.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from drover import words
from drover.errors import PreconditionFailed
from models import documents

MINUTES = 24 * 60
CLOCK = re.compile(documents.CLOCK)
NO_ZONE = "UTC"
"""In which times are meant where no zone is named."""


@dataclass(frozen=True)
class Window:
    """The same hours of every day; it may go over midnight."""

    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str, timezone: str) -> "Window":
        """`22:00-04:00` in a time zone.

        Raises:
            PreconditionFailed: it is none, or the zone is unknown.
        """
        start, _, end = text.partition("-")
        window = cls(_clock(start, text), _clock(end, text), zone(timezone))
        if window.start == window.end:
            raise PreconditionFailed(f"the window {text} has no length: leave it out for the whole day")
        return window

    @classmethod
    def of(cls, document: documents.Window) -> "Window":
        """The window of a document."""
        return cls.parse(f"{document.start}-{document.end}", document.timezone)

    def document(self) -> documents.Window:
        """As stored."""
        return documents.Window(start=f"{self.start:%H:%M}", end=f"{self.end:%H:%M}", timezone=self.zone.key)

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M} {self.zone.key}"

    def at_or_after(self, moment: datetime) -> tuple[datetime, datetime]:
        """When the window that is open at a moment, or else the next one, opens and closes; both in UTC."""
        today = moment.astimezone(self.zone).date()
        days = (today + timedelta(days=number) for number in (-1, 0, 1, 2))
        found = ((self._utc(day, self.start), self._utc(self._last_day(day), self.end)) for day in days)
        return next((opens, closes) for opens, closes in found if closes > max(moment, opens))

    @property
    def lasts_s(self) -> float:
        """In a night in which the clocks do not change, in seconds."""
        return 60.0 * len(self.minutes)

    @property
    def minutes(self) -> set[int]:
        """Of the day, in which it is open."""
        start, end = (60 * clock.hour + clock.minute for clock in (self.start, self.end))
        return {minute % MINUTES for minute in range(start, end + MINUTES * (end < start))}

    def _last_day(self, day: date) -> date:
        return day + timedelta(days=1) if self.end < self.start else day

    def _utc(self, day: date, clock: time) -> datetime:
        shown = datetime.combine(day, clock)
        at = min(shown.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        while at.astimezone(self.zone).replace(tzinfo=None) < shown:
            at += timedelta(minutes=1)  # the clocks skip it in this night
        return at


def window(text: str, timezone: str) -> documents.Window:
    """`22:00-04:00` as stored; errors as for `Window.parse`."""
    return Window.parse(text, timezone).document()


def hours(text: str | None, timezone: str) -> documents.Window | None:
    """Likewise; None where no window is given. Errors as for `window`, and for a time zone without one."""
    refuse_idle_zone(timezone, text)
    return window(text, timezone) if text else None


def refuse_idle_zone(timezone: str, *times: object) -> None:
    """Whoever names a zone and no time has forgotten the time, and it would be done at once, or always.

    Raises:
        PreconditionFailed: that is so.
    """
    if timezone != NO_ZONE and not any(times):
        raise PreconditionFailed(
            f"the time zone {timezone} is given, and no time in it: give the time as well, or leave the zone out"
        )


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Why something may not begin now."""

    why: str
    for_good: bool = False
    """No window will ever be long enough."""
    remedy: str = ""
    """The command that changes it, with a place for what waits."""

    def of(self, waits: Literal["job", "drain"], number: int) -> str:
        """Why this job or drain waits, with that command."""
        return f"{self.why}; {self.remedy.format(waits=waits, number=number)}" if self.remedy else self.why


WITHDRAWN = "`drover {waits} cancel {number}` withdraws it"
AT_ANY_TIME = "`drover {waits} set {number} --window ''` has it go on at any time"


def obstacle(
    now: datetime, takes_s: float, *, not_before: datetime | None = None, window: documents.Window | None = None
) -> Wait | None:
    """Why what takes so many seconds may not begin now; None if it may."""
    if not_before is not None and now < not_before:
        return Wait(why=f"it begins at {words.utc(not_before)}", remedy=WITHDRAWN)
    if not window:
        return None
    allowed = Window.of(window)
    opens, closes = allowed.at_or_after(now)
    if takes_s > max(allowed.lasts_s, (closes - opens).total_seconds()):
        lasts = words.duration(allowed.lasts_s)
        return Wait(
            why=f"it takes about {words.about(takes_s)} and its window {allowed} lasts {lasts}: "
            "use a longer window, or have the disks copied ahead with --seed-now",
            for_good=True,
            remedy=AT_ANY_TIME,
        )
    if now < opens:
        return Wait(why=f"its window {allowed} opens at {words.utc(opens)}", remedy=AT_ANY_TIME)
    if now + timedelta(seconds=takes_s) > closes:
        return Wait(
            why=f"it takes about {words.about(takes_s)} and would not end before its window {allowed} closes at "
            f"{closes:%H:%M} UTC: it waits for the next one",
            remedy=AT_ANY_TIME,
        )
    return None


def moment(text: str, timezone: str, now: datetime) -> datetime:
    """`2026-11-24T22:00`, or `22:00` for the next time of this hour and minute.

    Raises:
        PreconditionFailed: it is neither, or it has passed.
    """
    here = zone(timezone)
    if CLOCK.fullmatch(text):
        today = datetime.combine(now.astimezone(here).date(), _clock(text, text), tzinfo=here)
        return today if today > now else today + timedelta(days=1)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise PreconditionFailed(f"{text!r} is no time: write 22:00 or 2026-11-24T22:00") from None
    at = at if at.tzinfo else at.replace(tzinfo=here)
    if at < now:
        raise PreconditionFailed(f"{text} ({timezone}) has passed: name a time to come")
    return at


def recurrence(cron: str, timezone: str) -> documents.Recurrence:
    """A repetition as stored; `cron` has five fields: `0 22 * * 6`.

    Raises:
        PreconditionFailed: it is none, or the zone is unknown.
    """
    document = documents.Recurrence(cron=cron, timezone=zone(timezone).key)
    try:
        following(document, datetime.now(UTC))
    except (CronSimError, StopIteration) as error:
        raise PreconditionFailed(
            f"{cron!r} is no repetition: write five fields like '0 22 * * 6' for Saturdays at 22:00 ({error})"
        ) from error
    return document


def following(repeated: documents.Recurrence, after: datetime) -> datetime:
    """When it is to happen next."""
    return next(CronSim(repeated.cron, after.astimezone(ZoneInfo(repeated.timezone))))


def zone(name: str) -> ZoneInfo:
    """A time zone.

    Raises:
        PreconditionFailed: there is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise PreconditionFailed(f"there is no time zone {name!r}: write for example Europe/Berlin or UTC") from None


def _clock(text: str, whole: str) -> time:
    found = CLOCK.fullmatch(text.strip())
    if found is None:
        raise PreconditionFailed(f"{whole!r} is not understood: write times like 22:00, a window like 22:00-04:00")
    return time(int(found["hour"]), int(found["minute"]))
