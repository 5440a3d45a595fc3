"""JSON as QEMU takes it on its command line: strings may also stand in single quotes (`qobject/json-lexer.c`)."""

import json
import re
from typing import Any

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', re.DOTALL)


def loads(text: str) -> Any:
    """The value.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(_STRING.sub(_double_quoted, text))


def _double_quoted(found: "re.Match[str]") -> str:
    text = found[0]
    if text.startswith('"'):
        return text
    return '"' + text[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
