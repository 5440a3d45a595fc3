"""Output: results to stdout, everything else to stderr; with `--json` one document alone on stdout."""

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from drover.escaping import escaped, json_text

if TYPE_CHECKING:
    from rich.text import Text

PIPE_WIDTH = 500
"""A pipe has no width: tables must not be cut at 80 columns there."""


class Form(StrEnum):
    """How results are printed: `--output`, with any command."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


form = Form.TABLE
"""Of this process."""


def emit(document: dict[str, Any]) -> None:
    """Print the command's document, as JSON unless YAML was asked for."""
    if form is Form.YAML:
        import yaml

        print(yaml.safe_dump(json.loads(json_text(document)), sort_keys=False, allow_unicode=True), end="")
    else:
        print(json_text(document, indent=2))


def say(sentence: str) -> None:
    """Print a result for people on stdout."""
    print(escaped(sentence))


def note(sentence: str) -> None:
    """Print a note for people on stderr; it is not part of the result."""
    print(escaped(sentence), file=sys.stderr, flush=True)


def table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table without borders."""
    from rich.console import Console
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        made.add_column(title, overflow="fold")
    for row in rows:
        made.add_row(*map(cell, row))
    console = Console(file=sys.stdout)
    if form is Form.WIDE or not console.is_terminal:
        console = Console(file=sys.stdout, width=PIPE_WIDTH)
    console.print(made)


def cell(shown: object, style: str = "") -> "Text":
    """A part of a table or of a live view; not a `str`, because words in square brackets would be markup."""
    from rich.text import Text

    return Text("-" if shown is None or shown == "" else escaped(shown), style=style)
