"""Amounts, options and errors for people, in sentences and tables. No I/O."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches

from rich import filesize

NUMBER = re.compile(r"\d[\d:.]*")
AT_MOST, ALIKE = 3, 0.6
"""Names that may have been meant, and how like the one that was written: two of three letters."""
ERRNO = re.compile(r"\[Errno -?\d+\] |Error -?\d+ (?=connecting to)")


def gist(sentence: str | None) -> str:
    """A sentence without its numbers: it stays the same while only time goes by."""
    return NUMBER.sub("#", sentence or "")


def option(field: str) -> str:
    """How the command line writes a field: `max-downtime-ms`, `bandwidth`."""
    if field == "verify_bytes_per_s":
        return "verify-rate"
    return field.removesuffix("_bytes_per_s").removesuffix("_s").replace("_", "-")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean web01 or web02? `, or nothing."""
    alike = get_close_matches(name, list(names), AT_MOST, ALIKE)
    return f"did you mean {' or '.join(alike)}? " if alike else ""


def first_line(error: BaseException | None) -> str:
    """What an error says, in a line, without the system's number: those of a database go on with the statement."""
    lines = (line.strip() for line in ERRNO.sub("", str(error)).splitlines())
    return next(filter(None, lines), type(error).__name__)


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 guest`, `2 guests`; `many` where an s at the end is not enough: `count(2, "move leaves", "moves leave")`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def size(amount: float) -> str:
    """Bytes: `1.2 GB`, in powers of 1000; no less than none."""
    return filesize.decimal(max(int(amount), 0))


def rate(bytes_per_s: float) -> str:
    """Bytes per second: `12.0 MB/s`."""
    return f"{size(bytes_per_s)}/s"


def span(seconds: float | None) -> str:
    """How long something took or takes: `3.2 s`, `3:10`, `2:05:00`; nothing if that is not known."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def moment(at: str | None) -> str:
    """A time of a document, to the minute: `2026-11-28 05:57 UTC (5 min ago)`; nothing if there is none."""
    if not at:
        return ""
    then = datetime.fromisoformat(at)
    return f"{utc(then)} ({ago(then, datetime.now(UTC))})"


def ago(at: datetime, now: datetime) -> str:
    """`5 min ago`, or `in 2 h`."""
    seconds = (now - at).total_seconds()
    amount = _rough(abs(seconds))
    return f"{amount} ago" if seconds >= 0 else f"in {amount}"


def _rough(seconds: float) -> str:
    for unit, length in UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def utc(at: datetime) -> str:
    """A time in sentences, to the minute: `2026-11-28 05:57 UTC`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def pairs(told: Mapping[str, str]) -> str:
    """`max-downtime-ms 50, verify yes`; `nothing` if there are none."""
    return ", ".join(f"{name} {value}" for name, value in told.items()) or "nothing"


UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def duration(seconds: float) -> str:
    """How long something is to last, as whoever has set it would write it: `7 d`, `1 h 30 min`, `0.5 s`."""
    told, sign, seconds = list[str](), "-" if seconds < 0 else "", round(abs(seconds), 3)
    for unit, length in UNITS:
        number, seconds = divmod(seconds, length)
        told += [f"{number:.0f} {unit}"] if number else []
    return sign + " ".join(told if told and not seconds else [*told, f"{seconds:g} s"])


def about(seconds: float) -> str:
    """How long something takes that is estimated: `40 s`, `12 min`, `2 h 30 min`."""
    return duration(round(seconds) if seconds < 90 else 60 * round(seconds / 60))


LONGEST_S = 10_000 * 86400
"""That is told."""


def clock(seconds: float) -> str:
    """How long something still lasts, in whole seconds: `40 s`, `3:10`, `36:05:00`, `7 d`, `7 d 2:05:00`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = timedelta(seconds=round(min(LONGEST_S, seconds)))
    days, rest = divmod(whole, timedelta(days=1))
    if days >= 2:
        return f"{days} d {clock(rest.total_seconds())}" if rest else f"{days} d"
    hours, rest = divmod(whole, timedelta(hours=1))
    return f"{hours}:{str(rest)[2:]}" if hours else str(rest)[2:].lstrip("0")
