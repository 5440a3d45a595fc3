"""Output: results to stdout, everything else to stderr; with `--json` one document alone on stdout."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from shutil import get_terminal_size
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any, TextIO

from drover.errors import PreconditionFailed
from drover.escaping import escaped, json_text

if TYPE_CHECKING:
    from rich.text import Text

PIPE_WIDTH = 10_000
"""A pipe has no width: all of a row is in one line there."""
GAP = 2
COMMAND, UNBROKEN = re.compile("`[^`]*`"), "\N{NO-BREAK SPACE}"
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
columns: Sequence[str] = ()
"""Those that a list is to have, as `--output` names them; none: all."""


def emit(document: dict[str, Any]) -> None:
    """Print the command's document, as JSON unless YAML was asked for."""
    if form is Form.YAML:
        import yaml

        print(yaml.safe_dump(json.loads(json_text(document)), sort_keys=False, allow_unicode=True), end="")
    else:
        print(json_text(document, indent=2))


def say(sentence: str) -> None:
    """Print a result for people on stdout."""
    print(_wrapped(escaped(sentence), sys.stdout))


def note(sentence: str) -> None:
    """Print a note for people on stderr; it is not part of the result."""
    print(_wrapped(escaped(sentence), sys.stderr), file=sys.stderr, flush=True)


def _wrapped(sentence: str, stream: TextIO) -> str:
    """A terminal would break words; what goes on in another line is set in. Commands stay whole, to be copied."""
    if not stream.isatty():
        return sentence
    sentence = COMMAND.sub(lambda found: found[0].replace(" ", UNBROKEN), sentence)
    margin = " " * (len(sentence) - len(sentence.lstrip()) + 2)
    width = get_terminal_size().columns
    told = fill(sentence, width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)
    return told.replace(UNBROKEN, " ")


def table(titles: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table without borders; no word of it is broken."""
    from rich.console import Console
    from rich.text import Text

    titles, rows = _chosen(titles, rows)
    console = Console(file=sys.stdout)
    width = PIPE_WIDTH if form is Form.WIDE or not console.is_terminal else console.width
    head, *body = lines(titles, rows, width)
    console.print(Text(head, style="bold"), soft_wrap=True)
    for line in body:
        console.print(Text(line), soft_wrap=True)


def _chosen(
    titles: Sequence[str], rows: Iterable[Iterable[object]]
) -> tuple[Sequence[str], Iterable[Iterable[object]]]:
    """The columns that were named, in that order.

    Raises:
        PreconditionFailed: one is not there.
    """
    there = [title.lower().replace(" ", "-") for title in titles]
    if strange := [name for name in columns if name not in there]:
        raise PreconditionFailed(f"there is no column {strange[0]!r}: there are {', '.join(there)}")
    places = [there.index(name) for name in columns] or range(len(titles))
    return [titles[place] for place in places], ([list(row)[place] for place in places] for row in rows)


def lines(titles: Sequence[str], rows: Iterable[Iterable[object]], width: int) -> list[str]:
    """The lines of a table. What has no room beside the rest of its row stands below it, with its title."""
    shown = [[cell(one).plain for one in row] for row in rows]
    widths = _widths(list(zip(titles, *shown, strict=True)), width)
    rooms = [*widths, *(0 for _ in titles[len(widths) :])]
    made = [_beside(titles, widths)]
    for row in shown:
        made.append(_beside(row, widths))
        below = [
            f"{title.lower()} {one}"
            for title, one, room in zip(titles, row, rooms, strict=True)
            if one != "-" and _cells(one) > room
        ]
        made += wrap("; ".join(below), width, **BELOW)
    return made


def _widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """Of the columns that stand beside each other. The last of them may have cells that do not fit, if most do."""
    first, *others = ([_cells(one) for one in column] for column in columns)
    widths, room = [max(first)], width - max(first)
    for title, *column in others:
        room -= GAP
        fitting = [one for one in column if one <= room]
        if title > room or len(fitting) * 2 < len(column):
            break
        widths.append(max(title, *fitting) if fitting else title)
        room -= widths[-1]
        if len(fitting) < len(column):
            break
    return widths


def _beside(row: Sequence[str], widths: Sequence[int]) -> str:
    fitting = [one if _cells(one) <= room else "" for one, room in zip(row, widths, strict=False)]
    padded = (one + " " * (room - _cells(one)) for one, room in zip(fitting, widths, strict=True))
    return (" " * GAP).join(padded).rstrip()


def _cells(text: str) -> int:
    """How much room it takes."""
    from rich.cells import cell_len

    return cell_len(text)


def cell(shown: object, style: str = "") -> "Text":
    """A part of a table or of a live view; not a `str`, because words in square brackets would be markup."""
    from rich.text import Text

    return Text("-" if shown is None or shown == "" else escaped(shown), style=style)
