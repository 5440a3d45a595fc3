"""Blocks of the documents that tests follow: a comment above each says what it is and where it is run.

<!-- KIND: WHERE -->
```sh
...
```
"""

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOW_TO = DOCS / "how-to"
BLOCK = re.compile(r"<!-- (\w+): ([^\n]*) -->\n *```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Of each such block of a page: its kind, the machines that it is for, its script."""
    return [(kind, where, dedent(script)) for kind, where, script in BLOCK.findall(page.read_text())]


def scripts(page: Path, kind: str) -> list[str]:
    """The scripts of one kind."""
    found = [script for known, _, script in blocks(page) if known == kind]
    assert found, f"{page} has no block {kind}"
    return found
