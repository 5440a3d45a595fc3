"""What a switch process is told: one JSON file that only its own user can read, as it holds the key."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from workers.images import write_durably


@dataclass(frozen=True, kw_only=True)
class Order:
    """What both sides need."""

    qmp: str
    key: str
    """Shared secret of this attempt, hexadecimal."""
    images: list[str]
    """Image files on this host, to be written out just before the switch."""
    journal: str

    def save(self, path: Path) -> None:
        """Write it for the process that is about to be started."""
        write_durably(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it in that process."""
        return cls(**json.loads(path.read_text()))


@dataclass(frozen=True, kw_only=True)
class SourceOrder(Order):
    """For the side that lets the guest go."""

    address: str
    port: int
    mirrors: list[str]
    """Ids of the mirrors' block jobs."""
    nodes: list[str]
    """Node names of their NBD clients."""
    live: bool
    """False: pause the guest before its RAM is sent, because this QEMU corrupts it otherwise."""
    max_blackout_ms: int
    bandwidth_bytes_per_s: int
    """Of the RAM stream; 0 is unlimited."""
    deadline_s: float
    """Give up when RAM has not converged by then."""
    devices: list[str]
    """QOM names of the guest's devices at preflight: nothing may have been plugged since."""


@dataclass(frozen=True, kw_only=True)
class DestinationOrder(Order):
    """For the side that takes the guest in."""

    address: str
    exporter_qmp: str
    exports: list[str]
    nodes: list[str]
    """The exporter's block nodes, in the order in which they can be removed."""
    marker: str
