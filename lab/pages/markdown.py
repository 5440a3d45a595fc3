"""Tables, and parts of a page that is otherwise written by hand, between `<!-- NAME -->` and `<!-- end -->`."""

import re
from collections.abc import Iterable


def replaced(text: str, name: str, part: str) -> str:
    """The page with another part of this name.

    Raises:
        ValueError: the page has no such part.
    """
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{end}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no {begin}")
    return pattern.sub(lambda _: f"{begin}\n\n{part}\n\n{end}", text)


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, whatever its cells hold."""
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *(map(cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """A text in a table."""
    return text.replace("|", r"\|")


def one_line(text: str) -> str:
    """A text without line breaks."""
    return " ".join(text.split())
