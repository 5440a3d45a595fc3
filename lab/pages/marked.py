"""Parts of a page that is otherwise written by hand, between `<!-- NAME -->` and `<!-- end -->`."""

import re


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
