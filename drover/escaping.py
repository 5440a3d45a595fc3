r"""Whatever is shown, on a terminal, in a log line or in Flower, goes through here: nothing in it acts, or pretends.

A name, a path or an error text of QEMU may hold an escape sequence, a line break, or a mark that turns the direction of
writing round. What cannot be printed is written as in Python: `\x1b`, `\n`, `\u202e`.
"""

import json
import re
from typing import Any


def escaped(text: object) -> str:
    """In one line of printable characters."""
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_escaped, shown))


def _escaped(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def escaped_lines(text: str) -> str:
    """Likewise for what is to have several lines, such as a traceback: each is indented, so none looks like another."""
    return "\n".join(f"  {escaped(line)}" for line in text.split("\n"))


def json_text(document: Any, **how: Any) -> str:
    """A document as JSON: letters as they are, and what cannot be printed escaped as JSON does it."""
    text = json.dumps(document, ensure_ascii=False, **how)
    return re.sub(r"[^\x00-\x7e]", _escaped_in_json, text)


def _escaped_in_json(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    return r"\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
