"""What a switchover process did, line by line: read by the worker that watches it and by later workers."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers import files

BEAT_S = 0.3


class Journal:
    """Append-only JSON lines. One `write` call a line, so that a line is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path, self._beat = path, beat_path(path)
        self.progress: dict[str, Any] = {}
        """How far the work is; written with the next beat."""
        self._descriptor = files.private(path, os.O_WRONLY | os.O_APPEND)

    def write(self, event: str, **data: Any) -> None:
        """The line survives the death of this process, but not that of the host, whose QEMU would die as well."""
        line = json.dumps({"event": event, "at": time.time(), **data})
        os.write(self._descriptor, line.encode() + b"\n")

    def state(self) -> "JournalState":
        """What is in it so far."""
        return read(self._path)

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._descriptor)

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Show for the time of a `with` block that this process is not frozen, whatever it waits for."""
        beats = asyncio.create_task(self._beat_on())
        try:
            yield
        finally:
            beats.cancel()

    async def _beat_on(self) -> None:
        while True:
            self._tell_progress()
            await asyncio.sleep(BEAT_S)

    def _tell_progress(self) -> None:
        """Write the progress file; only the newest value is kept."""
        draft = self._beat.with_suffix(".draft")
        with os.fdopen(files.private(draft, os.O_WRONLY | os.O_TRUNC), "w") as file:
            file.write(json.dumps(self.progress))
        draft.replace(self._beat)


@dataclass(frozen=True)
class JournalState:
    """A journal as read at one moment."""

    lines: tuple[dict[str, Any], ...]

    def last(self, event: str) -> dict[str, Any] | None:
        """The newest line of this kind."""
        return next((line for line in reversed(self.lines) if line["event"] == event), None)

    @property
    def committed(self) -> bool:
        """The destination may have been told to run."""
        return self.last("run") is not None

    @property
    def paused_guest(self) -> bool:
        """The process may have paused the guest by `stop`, before its RAM was sent."""
        return self.last("pausing") is not None

    @property
    def went_on(self) -> bool:
        """The guest was resumed, or about to be resumed, at the source: what the destination holds is out of date."""
        return self.last("keeping") is not None or self.last("kept") is not None

    @property
    def left_to_destination(self) -> bool:
        """The mirrors were ended for good and the guest did not go on here since: only the destination may have it."""
        return self.last("continuing") is not None and not self.went_on

    @property
    def ended(self) -> bool:
        """The journal ends with a terminal event."""
        return bool(self.lines) and self.lines[-1]["event"] in {"resumed", "kept", "lost", "closed"}


def beat_path(journal: Path) -> Path:
    """The file by which the process of a journal shows that it is alive."""
    return journal.with_suffix(".beat")


def read_beat(journal: Path) -> dict[str, Any]:
    """The progress that the process wrote last; empty if none."""
    try:
        progress: dict[str, Any] = json.loads(beat_path(journal).read_text())
    except FileNotFoundError:
        return {}
    return progress


def changed_at(journal: Path) -> int:
    """When the process last wrote anything, in nanoseconds since 1970; 0 when it never did."""
    files = [path for path in (journal, beat_path(journal)) if path.exists()]
    return max((path.stat().st_mtime_ns for path in files), default=0)


def read(path: Path) -> JournalState:
    """The journal so far; empty when there is none."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return JournalState(())
    whole, _, _ = text.rpartition(b"\n")
    return JournalState(tuple(json.loads(line) for line in whole.splitlines()))
