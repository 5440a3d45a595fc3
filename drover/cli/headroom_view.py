"""How it is shown whether hosts could be emptied, as text or as JSON."""

from collections.abc import Sequence

import typer

from drover import words
from drover.cli import output
from drover.cli.exit_codes import ExitCode
from drover.words import count
from models.base import Document


def verdict(found: Document, *, as_json: bool) -> None:
    """Print whether one host could be emptied; exits with 3 if not."""
    if as_json:
        output.emit(found)
    else:
        output.say(_headline(found))
        for why in _reasons(found):
            output.say(f"  {why}")
    if not found["ok"]:
        raise typer.Exit(ExitCode.ROLLED_BACK)


def listed(found: Sequence[Document], *, as_json: bool) -> None:
    """Print a line for each host."""
    if as_json:
        output.emit({"hosts": list(found)})
        return
    output.table(
        ("HOST", "CAN BE EMPTIED", "GUESTS", "TIME", "IN THE WAY"),
        [
            (
                one["host"],
                "yes" if one["ok"] else "no",
                one["guests"],
                words.span(one["total_s"]),
                "; ".join(_reasons(one)),
            )
            for one in found
        ],
    )


def _headline(found: Document) -> str:
    if not found["ok"]:
        return f"{found['host']} cannot be emptied now:"
    if not found["guests"]:
        return f"{found['host']} is empty"
    moves = count(found["guests"], "guest moves", "guests move")
    return f"{found['host']} can be emptied: {moves} in about {words.span(found['total_s'])}"


def _reasons(found: Document) -> list[str]:
    return [*found["obstacles"], *(f"{one['guest']}: {one['reason']}" for one in found["skipped"])]
