"""When and for whom something may be done: what a person or a scheduler writes, checked and made exact."""

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from models.base import Document
from models.errors import PreconditionFailed
from workflows import schedule
from workflows.schedule import Window


@dataclass(frozen=True, kw_only=True)
class Terms:
    """When a job or a drain may begin and go on, and who is told; see the columns of `Job` with these names."""

    priority: int = 0
    not_before: datetime | None = None
    window: Document | None = None
    hold: bool = False
    seed: bool = False
    webhook: str | None = None

    def __post_init__(self) -> None:
        if self.seed and not (self.window or self.not_before):
            raise PreconditionFailed("copying the disks ahead needs a time for the rest: add --window or --at")
        if self.webhook and (
            urlsplit(self.webhook).scheme not in {"http", "https"} or not urlsplit(self.webhook).netloc
        ):
            raise PreconditionFailed(f"{self.webhook!r} is no address to tell: write https://HOST/PATH")


def read(
    *,
    at: str | None = None,
    window: str | None = None,
    timezone: str = "UTC",
    every: str | None = None,
    hold: bool = False,
    seed_now: bool = False,
    priority: int = 0,
    webhook: str | None = None,
) -> Terms:
    """What was written, as terms; the first time of a repetition is its next one, unless `at` says otherwise.

    Raises:
        PreconditionFailed: a time, window, zone or address is not understood.
    """
    now = datetime.now(UTC)
    moment = schedule.moment(at, timezone, now) if at else None
    if every and moment is None:
        moment = schedule.following(schedule.recurrence(every, timezone), now)
    return Terms(
        priority=priority,
        not_before=moment,
        window=Window.parse(window, timezone).document() if window else None,
        hold=hold,
        seed=seed_now,
        webhook=webhook,
    )
