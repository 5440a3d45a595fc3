"""What the two ends say to each other: one JSON document a line, an answer for each question."""

from typing import Literal

from models.contracts import Many, Versioned

SEGMENT_BYTES = 4 << 20
"""What is asked for at once."""
HOLE_BYTES = 32 << 20
"""Likewise where the source has nothing. A QEMU reads no more at once."""
BLOCK_BYTES = 1 << 16
"""What one digest is of."""
PIECE_BYTES = 1 << 12
"""Likewise where a block differs."""
LONGEST_LINE = 1 << 20
PATIENCE_S = 120.0
"""Slow storage answers later than others."""


class Question(Versioned):
    """Of the source, about a range of a disk."""

    about: Literal["digests", "freeze", "written"]
    """`digests`: of its blocks. `freeze`: remember what was written to the disk until now. `written`: which parts of
    the range were, by what was remembered last."""
    disk: int
    offset: int = 0
    length: int = 0
    block: int = BLOCK_BYTES


class Answer(Versioned):
    """Of the destination."""

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
