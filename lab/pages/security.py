"""Parts of the page about security: what a policy may say, and the forgeries that the tests try."""

from collections.abc import Iterator
from typing import Any

from lab.pages.contracts import docstrings
from lab.pages.markdown import replaced, table
from workers.trust.policy import Policy


def page(text: str) -> str:
    """The page, with the tables as they are now."""
    notes = docstrings(Policy)
    fields = ((f"`{name}`", _default(field.default), notes[name]) for name, field in Policy.model_fields.items())
    text = replaced(text, "policy", table(("name", "default", "what it is"), fields))
    return replaced(text, "forgeries", table(("what is forged", "what the worker says or does"), _forgeries()))


def _default(value: Any) -> str:
    if isinstance(value, float):
        return f"`{value:g}`"
    return ", ".join(f"`{item}`" for item in value) if value else ""


def _forgeries() -> Iterator[tuple[str, str]]:
    from tests.forgeries import FORGERIES  # they are beside the tests, which are not installed

    for forgery in FORGERIES:
        yield forgery.what, forgery.answer
