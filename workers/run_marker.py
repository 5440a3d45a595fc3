"""The marker: a file on the destination which says that this host may have let the guest run.

Written before `cont` is sent. Apart from `workers.step`, for the switchover process must start quickly: with the
database's classes it would import for longer than all the rest of it takes.
"""

from pathlib import Path

MARK = b"may run\n"
"""What the marker holds once it counts; before that the file is there with other bytes of this length."""


def is_set(marker: Path) -> bool:
    """It counts."""
    return marker.exists() and marker.read_bytes() == MARK
