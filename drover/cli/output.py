"""Output: results to stdout, everything else to stderr; with `--json` one document alone on stdout."""

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import accumulate
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from drover.escaping import escaped, json_text

if TYPE_CHECKING:
    from rich.text import Text

PIPE_WIDTH = 10_000
"""A pipe has no width: all of a row is in one line there."""
GAP = 2
BELOW: dict[str, Any] = {
    "initial_indent": "    ",
    "subsequent_indent": "    ",
    "break_long_words": False,
    "break_on_hyphens": False,
}


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


def table(titles: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table without borders; no word of it is broken."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout)
    width = PIPE_WIDTH if form is Form.WIDE or not console.is_terminal else console.width
    head, *body = lines(titles, rows, width)
    console.print(Text(head, style="bold"), soft_wrap=True)
    for line in body:
        console.print(Text(line), soft_wrap=True)


def lines(titles: Sequence[str], rows: Iterable[Iterable[object]], width: int) -> list[str]:
    """The lines of a table. Columns for which a row has no room stand below it, each with its title."""
    from rich.cells import cell_len

    shown = [[cell(one).plain for one in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(titles, *shown, strict=True)]
    ends = accumulate(widths, lambda end, more: end + GAP + more)
    beside = max(1, sum(end <= width for end in ends))
    made = [_beside(titles[:beside], widths)]
    for row in shown:
        made.append(_beside(row[:beside], widths))
        below = [
            f"{title.lower()} {one}" for title, one in zip(titles[beside:], row[beside:], strict=True) if one != "-"
        ]
        made += wrap("; ".join(below), width, **BELOW)
    return made


def _beside(row: Iterable[str], widths: Iterable[int]) -> str:
    from rich.cells import cell_len

    padded = (one + " " * (width - cell_len(one)) for one, width in zip(row, widths, strict=False))
    return (" " * GAP).join(padded).rstrip()


def cell(shown: object, style: str = "") -> "Text":
    """A part of a table or of a live view; not a `str`, because words in square brackets would be markup."""
    from rich.text import Text

    return Text("-" if shown is None or shown == "" else escaped(shown), style=style)
