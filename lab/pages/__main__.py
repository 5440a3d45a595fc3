"""See the package."""

from lab.pages import DOCS, pages

for name, text in pages().items():
    (DOCS / name).write_text(text)
