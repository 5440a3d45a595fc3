"""Amounts in sentences: one and many, bytes, durations. No I/O."""

import re
from collections.abc import Mapping
from datetime import timedelta

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


NUMBER = re.compile(r"\d[\d:.]*")


def gist(sentence: str | None) -> str:
    """A sentence without its numbers: it stays the same while only time goes by."""
    return NUMBER.sub("#", sentence or "")


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 guest`, `2 guests`; `many` where an s at the end is not enough: `count(2, "move leaves", "moves leave")`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def rate(bytes_per_s: float) -> str:
    """`12 MB/s`, in powers of 1000; two digits at least."""
    amount, unit = bytes_per_s, 0
    while amount >= 1000 and unit < len(UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.1f} {UNITS[unit]}/s" if amount < 10 and unit else f"{amount:.0f} {UNITS[unit]}/s"


def pairs(told: Mapping[str, str]) -> str:
    """`max-downtime-ms 50, verify yes`; `nothing` if there are none."""
    return ", ".join(f"{name} {value}" for name, value in told.items()) or "nothing"


def clock(seconds: float) -> str:
    """How long something still lasts: `40 s`, `3:10`, `2:05:00`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, rest = divmod(timedelta(seconds=round(seconds)), timedelta(hours=1))
    return f"{hours}:{str(rest)[2:]}" if hours else str(rest)[2:].lstrip("0")
