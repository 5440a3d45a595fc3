"""Pages that are written from the code match the code."""

import pytest

from lab.pages import DOCS, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "write it anew: make docs"
