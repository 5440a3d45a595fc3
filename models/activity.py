"""What a guest does, as far as it matters for a move."""

from pydantic import Field

from models.contracts import Versioned


class Activity(Versioned):
    """What a guest did while its host looked: each byte that it writes during a move has to be sent again."""

    seconds: float = Field(gt=0)
    """For how long it was looked at."""
    written_per_s: float = 0.0
    """Bytes per second to its writable disks."""
    dirty_per_s: float | None = None
    """Bytes of its RAM that it changes per second, as QEMU estimates it; None: this QEMU does not tell."""
