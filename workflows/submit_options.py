"""When and for whom something may be done: what a person or a scheduler writes, checked and made exact."""

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import AnyHttpUrl, TypeAdapter

from drover.errors import PreconditionFailed
from models.base import Document
from workflows import schedule
from workflows.schedule import Window

LARGEST = 2**31 - 1
"""That an integer column holds."""
LONGEST = 128
"""Of names and keys, as their columns say."""
WEB_ADDRESS = TypeAdapter(AnyHttpUrl)


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
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
        whole_number("priority", self.priority, least=-LARGEST, most=LARGEST)
        for name in ("hold", "seed"):
            if not isinstance(getattr(self, name), bool):
                raise PreconditionFailed(f"{name} is true or false, not {getattr(self, name)!r}")
        if self.webhook is not None and not is_address(self.webhook):
            raise PreconditionFailed(f"{self.webhook!r} is no address to tell: write https://HOST/PATH")


def is_address(url: object) -> bool:
    """Somebody can be told there: an http or https URL with a host, in printable characters without spaces."""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port, WEB_ADDRESS.validate_python(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def whole_number(name: str, value: object, *, least: int, most: int) -> int:
    """A number of a submission, which others may send as anything.

    Raises:
        PreconditionFailed: it is no whole number, or out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise PreconditionFailed(f"{name} is a whole number from {least} to {most}, not {value!r}")
    return value


def words(name: str, value: object) -> str:
    """A text of a submission, likewise.

    Raises:
        PreconditionFailed: it is no text, is empty or too long, or holds what neither database nor terminal bears.
    """
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST or not value.isprintable():
        raise PreconditionFailed(f"{name} is a text of 1 to {LONGEST} printable characters, not {value!r}")
    return value


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
) -> SubmitOptions:
    """What was written, as terms; the first time of a repetition is its next one, unless `at` says otherwise.

    Raises:
        PreconditionFailed: a time, window, zone or address is not understood.
    """
    for name, value in {"at": at, "window": window, "timezone": timezone, "every": every}.items():
        if value is not None:
            words(name, value)
    now = datetime.now(UTC)
    moment = schedule.moment(at, timezone, now) if at else None
    if every and moment is None:
        moment = schedule.following(schedule.recurrence(every, timezone), now)
    return SubmitOptions(
        priority=priority,
        not_before=moment,
        window=Window.parse(window, timezone).document() if window else None,
        hold=hold,
        seed=seed_now,
        webhook=webhook,
    )
