"""Pages of `docs/` that are written from the code. `python -m lab.pages` writes them all."""

from pathlib import Path

from lab.pages import contracts, security, settings, support

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "contracts.md": contracts.page,
    "security.md": security.page,
    "settings.md": settings.page,
    "support.md": support.page,
}
"""{file name: what makes its text}."""
