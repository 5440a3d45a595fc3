"""Pages that are written from the code match the code."""

import pytest

from lab.pages import DOCS, PARTS, WHOLE, pages

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("name", [*WHOLE, *PARTS])
def test_a_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text() == pages()[name], "write it anew: make docs"
