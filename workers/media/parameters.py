"""What the process that receives files is told: one JSON file that only its owner can read."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from workers.files import write_durably


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """One file that may be sent."""

    path: str
    size_bytes: int
    digest: str
    mode: int
    uid: int
    gid: int
    format: str | None
    backing: str | None
    """Of an image that lies on another one, with the next."""
    backing_format: str | None


@dataclass(frozen=True, kw_only=True)
class ReceiverParameters:
    """What it is told."""

    job: int
    listening: int
    """Descriptor of the listening Unix socket that it inherits."""
    manifest: str
    directory: str
    """The worker's folder."""
    guest_root: str
    incoming: dict[str, Incoming]
    """By their places in the plan."""

    def save(self, path: Path) -> None:
        """Write it."""
        write_durably(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it."""
        told = json.loads(path.read_text())
        incoming = {place: Incoming(**file) for place, file in told.pop("incoming").items()}
        return cls(incoming=incoming, **told)
