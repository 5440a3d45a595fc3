"""A drive whose writes are limited for a move alone. No pydantic: the switchover process gets it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SlowedDrive:
    """What tells its own limits from those that were set for the move, as `block_set_io_throttle` takes them."""

    before: dict[str, Any]
    """Its own."""
    set: Sequence[dict[str, Any]]
    """What was set for the move, each time."""
