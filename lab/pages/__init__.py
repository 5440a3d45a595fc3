"""Pages of `docs/` that are written from the code. `python -m lab.pages` writes them all."""

from pathlib import Path

from lab.pages import api, commands, contracts, database, metrics, security, settings, support, transitions

DOCS = Path(__file__).parents[2] / "docs"
WHOLE = {
    "reference/commands.md": commands.page,
    "reference/contracts.md": contracts.page,
    "reference/database.md": database.page,
    "reference/settings.md": settings.page,
    "reference/support.md": support.page,
}
"""{file name: what makes its text}."""
PARTS = {
    "reference/api.md": api.page,
    "reference/cli.md": commands.codes,
    "reference/metrics.md": metrics.page,
    "explanation/states.md": transitions.page,
    "explanation/security.md": security.page,
}
"""{file name: what makes the parts in it anew that are not written by hand}."""


def pages() -> dict[str, str]:
    """{file name: its text as it is to be}."""
    whole = {name: page() for name, page in WHOLE.items()}
    return whole | {name: page((DOCS / name).read_text()) for name, page in PARTS.items()}
