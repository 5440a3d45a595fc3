"""The finding of one look."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from drover import words
from models.base import Document

EXPIRES_SOON = timedelta(days=30)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "warning", "problem"]
    found: str
    fix: str | None = None
    """What to do about it; None: nothing, or `found` says so."""

    @property
    def sentence(self) -> str:
        """The finding with its remedy."""
        return f"{self.found}: {self.fix}" if self.fix else self.found

    def document(self) -> Document:
        """As JSON."""
        return {"name": self.name, "status": self.status, "message": self.sentence, "fix": self.fix}


def ok(name: str, found: str) -> Check:
    """It is as it should be."""
    return Check(name, "ok", found)


def warning(name: str, found: str, fix: str | None = None) -> Check:
    """Jobs go on with it, but something is not as it should be."""
    return Check(name, "warning", found, fix)


def problem(name: str, found: str, fix: str | None = None) -> Check:
    """A job will fail, or wait, because of it."""
    return Check(name, "problem", found, fix)


def valid_until(name: str, what: str, ends: datetime, fix: str) -> Check:
    """Something that ends, as it is now."""
    left = ends - datetime.now(UTC)
    if left < timedelta(0):
        return problem(name, f"{what} expired at {words.utc(ends)}", fix)
    if left < EXPIRES_SOON:
        return warning(name, f"{what} expires in {words.count(left.days, 'day')}", fix)
    return ok(name, f"{what} is valid until {ends.astimezone(UTC):%Y-%m-%d}")


def looked(name: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """What a look finds; one that fails is a finding as well, and ends no other."""
    from drover.cli.errors import fault

    try:
        yield from look()
    except Exception as error:
        yield problem(name, fault(error).message)
