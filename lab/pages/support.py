"""The page of what is moved, carried, warned of and refused, from the list of checks."""

from collections.abc import Iterable, Iterator

from lab.pages.markdown import table
from models.preflight import Verdict
from workers.preflight import checks
from workers.preflight.checks import supported
from workers.preflight.checks.kind import Kind

INTRODUCTION = """\
# What is moved, and what is not

`make docs` writes this page from `workers/preflight/checks/`; do not edit it.

`drover guest show`, `drover migrate --dry-run`, drains and every job look at the same list. With `--json` each check is
an object: `name`, `side`, `verdict` (`ok`, `warn`, `refuse`), what was `seen`, the `remedy`, and whether the guest may
run on while that is done (`live`). A refusal comes before anything is changed on either host.
`tests/launch_lines.toml` has launch lines of every kind, each with what becomes of it.
"""


def page() -> str:
    """The whole page."""
    refused = [kind for kind in checks.KINDS if kind.verdict is Verdict.REFUSE]
    warned = [kind for kind in checks.KINDS if kind.verdict is Verdict.WARN]
    return "\n".join(
        [
            INTRODUCTION,
            *_table("Moved", ("what", "how"), ((one.what, one.how) for one in supported.MOVED)),
            *_table("Carried", ("what", "how"), ((one.what, one.how) for one in supported.CARRIED)),
            *_table("Warned of", ("check", "what", "what to do"), map(_row, warned)),
            *_refused(refused),
        ]
    )


def _refused(kinds: Iterable[Kind]) -> Iterator[str]:
    kinds = tuple(kinds)
    for side in ("source", "destination"):
        here = [kind for kind in kinds if kind.side == side]
        yield from _table(f"Refused by the {side}", ("check", "what", "what to do"), map(_row, here))


def _row(kind: Kind) -> tuple[str, str, str]:
    remedy = kind.remedy or "see what it says"
    return f"`{kind.name}`", kind.what, f"{remedy} (while it runs)" if kind.live else remedy


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"## {title}\n"
    yield table(columns, rows)
    yield ""
