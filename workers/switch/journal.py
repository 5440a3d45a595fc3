"""What a switch process did, line by line: read by the worker that watches it, and by whoever comes after."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Journal:
    """Append-only JSON lines. One `write` call a line, so that a line is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, **data: Any) -> None:
        """Survives the death of this process; not that of the host, whose QEMU would die as well."""
        line = json.dumps({"event": event, "at": time.time(), **data})
        os.write(self._descriptor, line.encode() + b"\n")


@dataclass(frozen=True)
class Story:
    """A journal as read at one moment."""

    lines: tuple[dict[str, Any], ...]

    def last(self, event: str) -> dict[str, Any] | None:
        """The newest line of this kind."""
        return next((line for line in reversed(self.lines) if line["event"] == event), None)

    @property
    def crossed(self) -> bool:
        """The destination may have been told to run."""
        return self.last("run") is not None

    @property
    def ended(self) -> bool:
        """The process said its last word."""
        return bool(self.lines) and self.lines[-1]["event"] in {"resumed", "kept", "lost", "closed"}


def read(path: Path) -> Story:
    """The journal so far; empty when there is none."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Story(())
    whole, _, _ = text.rpartition(b"\n")
    return Story(tuple(json.loads(line) for line in whole.splitlines()))
