"""A job's window while the job is under way: until when it may switch over, and what follows when the window closes.

Pure; the clock is an argument, and always the database's.
"""

from datetime import datetime
from typing import Literal

from drover import words
from models.documents import MigrationOptions, Window
from workflows import schedule
from workflows.schedule import Wait

ROLLBACK: Literal["rollback"] = "rollback"


def closes(window: Window | None, at: datetime) -> datetime | None:
    """When the window that is open closes; `at` itself if none is open, None if there is no window."""
    if window is None:
        return None
    opens, end = schedule.Window.of(window).at_or_after(at)
    return end if opens <= at else at


def left_s(window: Window | None, at: datetime) -> float | None:
    """For how long it is still open, in seconds: 0 if it is not, None if there is no window."""
    end = closes(window, at)
    return None if end is None else (end - at).total_seconds()


def is_closed(window: Window | None, at: datetime) -> bool:
    """A switchover now would be outside of it."""
    return left_s(window, at) == 0.0


def closed(window: Window, at: datetime, options: MigrationOptions) -> Wait:
    """What the job's event says when it closed before the switchover."""
    allowed = schedule.Window.of(window)
    if options.window_end == ROLLBACK:
        return Wait(why=f"its window {allowed} closed before the switchover: it is rolled back, as --window-end asks")
    opens, _ = allowed.at_or_after(at)
    return Wait(
        why=f"its window {allowed} closed before the switchover: its disks are kept in sync until it opens again, "
        f"at {words.utc(opens)}",
        remedy=schedule.AT_ANY_TIME,
    )
