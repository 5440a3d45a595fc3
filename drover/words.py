"""Amounts for people, in sentences and tables: one and many, bytes, rates, durations. No I/O."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from rich import filesize

NUMBER = re.compile(r"\d[\d:.]*")


def gist(sentence: str | None) -> str:
    """A sentence without its numbers: it stays the same while only time goes by."""
    return NUMBER.sub("#", sentence or "")


def first_line(error: BaseException) -> str:
    """What an error says, in a line: those of a database go on with the statement."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
    """A time of a document, to the minute: `2026-11-28 05:57`; nothing if there is none."""
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M}" if at else ""


def pairs(told: Mapping[str, str]) -> str:
    """`max-downtime-ms 50, verify yes`; `nothing` if there are none."""
    return ", ".join(f"{name} {value}" for name, value in told.items()) or "nothing"


def clock(seconds: float) -> str:
    """How long something still lasts, in whole seconds: `40 s`, `3:10`, `2:05:00`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, rest = divmod(timedelta(seconds=round(seconds)), timedelta(hours=1))
    return f"{hours}:{str(rest)[2:]}" if hours else str(rest)[2:].lstrip("0")
