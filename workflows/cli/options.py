"""Options and arguments that several commands share."""

import re
from typing import Annotated

import typer

from workflows.cli import completion

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
JobId = Annotated[
    int, typer.Argument(metavar="ID", help="The job's number.", autocompletion=completion.jobs, show_default=False)
]
GuestName = Annotated[
    str,
    typer.Argument(metavar="GUEST", help="The guest's name.", autocompletion=completion.guests, show_default=False),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Stop watching after so long; the job goes on (exit code 5).",
        show_default="never",
    ),
]

RATE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]i?)?b?(/s)?", re.IGNORECASE)


def rate(text: str) -> int:
    """Bytes per second from `100M/s`: K, M, G and T are powers of 1000, Ki, Mi, Gi and Ti of 1024."""
    found = RATE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a rate: write for example 100M/s, 1G/s or 64Mi/s")
    unit = (found["unit"] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    exponent = " kmgt".index(unit[0]) if unit else 0
    return int(float(found["number"]) * base**exponent)


def examples(*commands: str) -> str:
    """An epilog: typer joins lines and keeps paragraphs."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"$ {command}" for command in commands)])
