"""Output: results to stdout, everything else to stderr; with `--json` one document alone on stdout."""

import json
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

PIPE_WIDTH = 500
"""A pipe has no width: tables must not be cut at 80 columns there."""


def emit(document: dict[str, Any]) -> None:
    """Print the command's JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def say(sentence: str) -> None:
    """Print a result for people on stdout."""
    print(sentence)


def note(sentence: str) -> None:
    """Print a note for people on stderr; it is not part of the result."""
    print(sentence, file=sys.stderr)


def table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table without borders."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        made.add_column(title, overflow="fold")
    for row in rows:
        # Text, not str: a name in square brackets is no markup.
        made.add_row(*[Text("-" if cell is None or cell == "" else str(cell)) for cell in row])
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=PIPE_WIDTH)
    console.print(made)


def size(count: float) -> str:
    """Bytes for people: `1.2 GB`."""
    from rich.filesize import decimal

    return decimal(int(count))


def span(seconds: float | None) -> str:
    """A duration for people: `3.2 s`, `1:05:00`."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=int(seconds)))
