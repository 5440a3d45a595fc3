"""Small JSON files in the worker's own folder: what this host knows by itself, whatever the database says."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from workers.files import write_durably


def content(path: Path) -> dict[str, Any]:
    """What stands in the file now; nothing where there is none."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return known


@contextmanager
def edited(path: Path) -> Iterator[dict[str, Any]]:
    """The file's content, for this process alone; what is changed in it is written at the end, unless it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), mode=0o600):
        known = content(path)
        before = json.dumps(known)
        yield known
        if json.dumps(known) != before:
            write_durably(path, json.dumps(known, indent=1, sort_keys=True) + "\n")
