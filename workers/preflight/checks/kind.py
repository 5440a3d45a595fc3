"""What a check is, as data: what it looks for, why that matters, and what to do about it."""

from dataclasses import dataclass, field
from typing import Literal

from models.preflight import Check, Verdict

Where = Literal["source", "destination"]
RESTART = "restart the guest without it"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What one check looks for."""

    name: str
    what: str
    """For docs/reference/support.md."""
    why: str = ""
    """Why it is in the way; behind a colon in a sentence that begins with what was found."""
    remedy: str = ""
    live: bool = False
    """The remedy works while the guest runs."""
    verdict: Verdict = Verdict.REFUSE
    side: Where = "source"
    explains: frozenset[str] = field(default=frozenset())
    """Names of checks that find the same fact again: they are left out beside this one."""

    def of(self, subject: str, *, remedy: str | None = None) -> Check:
        """It was found in this option, disk or device."""
        return self.found(f"{subject}: {self.why}", remedy=remedy)

    def found(self, seen: str, *, remedy: str | None = None) -> Check:
        """It was found; `seen` says all of it."""
        return Check(
            name=self.name,
            side=self.side,
            verdict=self.verdict,
            seen=seen,
            remedy=self.remedy if remedy is None else remedy,
            live=self.live,
        )

    def ok(self) -> Check:
        """It was looked for, and nothing was found."""
        return Check(name=self.name, side=self.side, verdict=Verdict.OK)
