"""Amounts and durations for people. No I/O."""

from datetime import timedelta


def size(count: float) -> str:
    """Bytes for people: `1.2 GB`."""
    from rich.filesize import decimal

    return decimal(int(count))


def span(seconds: float | None) -> str:
    """A duration for people: `3.2 s`, `1:05:00`."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=int(seconds)))
