"""JSON as QEMU takes it on its command line: strings may also stand in single quotes (`qobject/json-lexer.c`)."""

import json
import re
from collections.abc import Iterator, Mapping
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


def made_up(name: object) -> dict[str, Any]:
    """The options in the name that QEMU makes up for a node (`json:{...}`); nothing in a name of its own."""
    text = str(name)
    found: dict[str, Any] = json.loads(text.removeprefix("json:")) if text.startswith("json:") else {}
    return found


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What is in it, by dotted keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def spelled(value: Any) -> str:
    """As an option string has it."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _double_quoted(found: "re.Match[str]") -> str:
    text = found[0]
    if text.startswith('"'):
        return text
    return '"' + text[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
