"""Records a real run of the demo: `make recording` writes it in asciinema's format, and its screen as a picture."""

import json
import os
import pty
import re
import sys
import time
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
CAST, PICTURE = ROOT / "docs/images/demo.cast", ROOT / "docs/images/demo.svg"
CONTROLS = re.compile(r"(\r?\n|\r|\x1b\[\d*A|\x1b\[2K|\x1b\[\?25[lh])")
"""Of a terminal: a new line, back to its beginning, up, emptied; the cursor is shown or not."""
COLUMNS, ROWS = 100, 40
FETCHED = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Rich has fonts fetched from elsewhere; readers of the documents have one of their own."""


def record(command: list[str]) -> list[tuple[float, str]]:
    """What a command prints to a terminal, and when, in seconds.

    Raises:
        SystemExit: it failed; nothing is written.
    """
    began, printed = time.monotonic(), list[tuple[float, str]]()

    def read(terminal: int) -> bytes:
        some = os.read(terminal, 1 << 16)
        printed.append((round(time.monotonic() - began, 3), some.decode(errors="replace")))
        return some

    os.environ |= {"COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
    if status := pty.spawn(command, read):
        raise SystemExit(f"{' '.join(command)} failed with status {status}: nothing was recorded")
    return printed


def cast(printed: list[tuple[float, str]]) -> str:
    """In version 2 of asciinema's format."""
    head = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "make demo"}
    return "\n".join([json.dumps(head), *(json.dumps([at, "o", text]) for at, text in printed)]) + "\n"


def picture(printed: list[tuple[float, str]]) -> str:
    """The lines as they stand in the end, as SVG."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    text = "\n".join(["$ make demo", *screen("".join(text for _, text in printed))])
    console.print(Text.from_ansi(text))
    return FETCHED.sub("", console.export_svg(title="make demo"))


def screen(text: str) -> list[str]:
    """The lines as they stand in the end, where a live view draws over its former lines."""
    lines, row = [""], 0
    for part in CONTROLS.split(text):
        if part in {"\n", "\r\n"}:
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b["):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not CONTROLS.fullmatch(part):
            lines[row] += part
    return lines


if __name__ == "__main__":
    seen = record([str(Path(sys.executable).with_name("drover")), "lab", "demo"])
    CAST.write_text(cast(seen))
    PICTURE.write_text(picture(seen))
