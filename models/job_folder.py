"""The documents in the folder of a job on one host: whoever takes the job up there reads them."""

from typing import Annotated

from pydantic import Field, Strict

from models.contracts import Versioned, of_dataclass
from models.plain import SlowedDrive


class SlowedWrites(Versioned):
    """How slowly the guest may write while its disks are copied, at its source."""

    per_s: int = 0
    """To each disk, in bytes per second; 0: it was never slowed."""
    drives: dict[str, Annotated[SlowedDrive, of_dataclass(SlowedDrive)]] = Field(default_factory=dict)
    """{drive: its limits}; empty: it writes as it likes while the job is held in sync."""


class RecordedNodes(Versioned):
    """The nodes of the guest's QEMU at its destination on which it is recorded what it writes."""

    UPGRADES = {0: lambda nodes: {"nodes": nodes}}  # noqa: RUF012

    nodes: dict[Annotated[int, Strict(False)], str]
    """{index of the disk: node}. A disk that is unplugged and plugged in again has another place among the others."""


class ClosedImages(Versioned):
    """The destination's images, which the NBD server has closed in good order: all that it was sent is in them."""

    nonce: str
    """Of that NBD server: which copy they are."""
