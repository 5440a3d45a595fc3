"""What is looked at before a guest is moved, and what was found: the same checks for every command that asks."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Strict

from models.contracts import Part


class Verdict(StrEnum):
    """What a check says of the move."""

    OK = "ok"
    """Nothing is against it."""
    WARN = "warn"
    """The guest can be moved; its operator should know something."""
    REFUSE = "refuse"
    """It cannot be moved now."""


class Check(Part):
    """One check of one guest."""

    name: str
    """As docs/reference/support.md lists it."""
    side: Literal["source", "destination"]
    """The host that has looked."""
    verdict: Annotated[Verdict, Strict(False)]
    seen: str = ""
    """What was found; empty if nothing was."""
    remedy: str = ""
    """What to do about it."""
    live: bool = False
    """The guest may run on meanwhile."""

    @property
    def sentence(self) -> str:
        """What was found and what to do, for people."""
        return "; ".join(part for part in (self.seen, self.remedy) if part)


def refusals(checks: Iterable[Check]) -> tuple[str, ...]:
    """The sentences of those that are against the move."""
    return _sentences(checks, Verdict.REFUSE)


def warnings(checks: Iterable[Check]) -> tuple[str, ...]:
    """The sentences of those that only warn."""
    return _sentences(checks, Verdict.WARN)


def _sentences(checks: Iterable[Check], verdict: Verdict) -> tuple[str, ...]:
    return tuple(dict.fromkeys(check.sentence for check in checks if check.verdict is verdict))
