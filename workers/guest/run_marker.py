"""The marker: a file on the destination which records that this host may have resumed the guest.

Written before `cont` is sent. It is apart from `workers.step` because the switchover process must start
quickly: importing the database's classes would take longer than the rest of its start.
"""

from pathlib import Path

SET_CONTENT = b"may run\n"
"""Content of a marker that is set; before that the file exists with other bytes of this length."""


def is_set(marker: Path) -> bool:
    """Whether it is set."""
    return marker.exists() and marker.read_bytes() == SET_CONTENT
