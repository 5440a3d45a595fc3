"""Builds the site: `python -m lab.site`, with arguments of `mkdocs build` if need be.

It is a hook of MkDocs too: links to files of the repository, which the site does not have, become their names, and a
link that is named by its page's file is named by its heading. A link to what is not there is an error, as one between
pages is.
"""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CELL, TEXT = re.compile("<td.*?</td>", re.DOTALL), re.compile(">[^<]+")
CODE = re.compile("<code.*?</code>", re.DOTALL)
OPTION = re.compile(r"(?<![\w&;-])--?[A-Za-z][\w-]*")
SEAM = re.compile("(?<=[A-Za-z0-9][_/@,:])")
FILE = re.compile(r"\[[\w-]+\.md\](?=\(([\w./-]+))")
OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page as it is built."""
    folder = (ROOT / "docs" / page.file.src_path).parent

    def named(link: re.Match[str]) -> str:
        meant = (folder / link[2]).resolve()
        if meant.is_relative_to(ROOT / "docs"):
            return link[0]
        if not meant.exists():
            raise ValueError(f"{page.file.src_path}: there is no {link[2]}")
        name, file = link[1].strip("`"), str(meant.relative_to(ROOT))
        return f"`{file}`" if file.endswith(name.rstrip("/")) else f"{link[1]} (`{file}`)"

    def headed(link: re.Match[str]) -> str:
        return f"[{(folder / link[1]).read_text().splitlines()[0].removeprefix('# ')}]"

    return FILE.sub(headed, OUTSIDE.sub(named, markdown))


def on_page_content(html: str, **_: Any) -> str:
    """The page as it fits narrow screens: a long name in a cell may be broken between its parts, an option never."""
    html = within(CELL, SEAM, "<wbr>", html)
    return within(CODE, OPTION, r'<span class="option">\g<0></span>', html)


def within(part: re.Pattern[str], found: re.Pattern[str], becomes: str, html: str) -> str:
    """What is found in the text of these parts is replaced; tags are not looked into."""
    return part.sub(lambda cell: TEXT.sub(lambda text: found.sub(becomes, text[0]), cell[0]), html)


if __name__ == "__main__":
    from mkdocs.__main__ import cli

    cli(["build", "--strict", *sys.argv[1:]])  # `--quiet` would let a broken link pass: it drops what `--strict` counts
