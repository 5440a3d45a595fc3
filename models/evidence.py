"""What shows whether somebody has written to an image file. No pydantic: the switchover process writes it down."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one file was at one moment."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    digest: str
    """Of samples of its content."""
