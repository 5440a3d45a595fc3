"""Parts of the page about security: what a policy may say, and the forgeries that the tests try."""

from collections.abc import Iterator
from typing import Any

from lab.pages.contracts import cell, docstrings
from lab.pages.marked import replaced
from workers.trust.policy import Policy


def page(text: str) -> str:
    """The page, with the tables as they are now."""
    for name, lines in (("policy", _policy()), ("forgeries", _forgeries())):
        text = replaced(text, name, "\n".join(lines))
    return text


def _policy() -> Iterator[str]:
    yield "| name | default | what it is |\n| --- | --- | --- |"
    notes = docstrings(Policy)
    for name, field in Policy.model_fields.items():
        yield f"| `{name}` | {_default(field.default)} | {cell(notes[name])} |"


def _default(value: Any) -> str:
    if isinstance(value, float):
        return f"`{value:g}`"
    return ", ".join(f"`{item}`" for item in value) if value else ""


def _forgeries() -> Iterator[str]:
    from tests.forgeries import FORGERIES  # they are beside the tests, which are not installed

    yield "| what is forged | what the worker says or does |\n| --- | --- |"
    for forgery in FORGERIES:
        yield f"| {cell(forgery.what)} | {cell(forgery.answer)} |"
