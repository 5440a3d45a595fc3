"""What the two ends say to each other: one JSON document a line, an answer for each question."""

from typing import Literal

from models.contracts import Many, Versioned

SEGMENT_BYTES = 4 << 20
"""What is asked for at once."""
WINDOW_BYTES = 32 << 20, 1 << 30
"""Likewise about where there is anything, from the least, where there is, to the most: most of a large thin disk is
nothing, and a guest waits while its QEMU looks through a file of many pieces (0.1 s for a GiB in pieces of 4 KiB)."""
BLOCK_BYTES = 1 << 16
"""What one digest is of."""
PIECE_BYTES = 1 << 12
"""Likewise where a block differs."""
LONGEST_LINE = 1 << 20
PATIENCE_S = 120.0
"""Slow storage answers later than others."""


class Question(Versioned):
    """Of the source, about a range of a disk."""

    about: Literal["data", "digests", "freeze", "written"]
    """`data`: which segments of the range are more than a hole. `digests`: of its blocks. `freeze`: remember what was
    written to the disk until now. `written`: which parts of the range were, by what was remembered last."""
    disk: int
    offset: int = 0
    length: int = 0
    block: int = BLOCK_BYTES


class Answer(Versioned):
    """Of the destination."""

    data: Many[int] = ()
    """Where each segment begins."""
    digests: Many[str] = ()
    """One a block, in hexadecimal; empty: it reads as zeroes."""
    read_bytes: int = 0
    """What had to be read for them."""
    written: Many[Many[int]] = ()
    """(offset, length) of each part."""
    error: str | None = None
    """Why there is none, for people."""
    final: bool = False
    """There will be none later either."""
