"""Parts of the page about security: what a policy may say, and the forgeries that the tests try."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.pages.contracts import cell, docstrings
from workers.policy import Policy

PAGE = Path(__file__).parents[2] / "docs/security.md"


def page() -> str:
    """The whole page: what is written by hand, with the tables as they are now."""
    text = PAGE.read_text()
    for name, lines in (("policy", _policy()), ("forgeries", _forgeries())):
        text = _replaced(text, name, "\n".join(lines))
    return text


def _replaced(text: str, name: str, table: str) -> str:
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n\n{table}\n\n{end}", text, flags=re.DOTALL)


def _policy() -> Iterator[str]:
    yield "| name | default | what it is |\n| --- | --- | --- |"
    notes = docstrings(Policy)
    for name, field in Policy.model_fields.items():
        yield f"| `{name}` | {_default(field.default)} | {cell(notes[name])} |"


def _default(value: Any) -> str:
    return ", ".join(f"`{item}`" for item in value) if value else ""


def _forgeries() -> Iterator[str]:
    from tests.forgeries import FORGERIES  # they are beside the tests, which are not installed

    yield "| what is forged | what the worker says or does |\n| --- | --- |"
    for forgery in FORGERIES:
        yield f"| {cell(forgery.what)} | {cell(forgery.answer)} |"
