"""See the package."""

from lab.pages import DOCS, PAGES

for name, page in PAGES.items():
    (DOCS / name).write_text(page())
