"""How policies are set and shown, as text or as JSON."""

import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from drover import words
from drover.cli import output
from drover.cli.options import given
from drover.errors import PreconditionFailed
from drover.views import documents
from models.base import Document
from workflows import policy_commands


def define(name: str, selector: str | None, priority: int, values: Mapping[str, Any], *, as_json: bool) -> None:
    """Set one, and print it."""
    policy_commands.define(name, selector, priority, values)
    show(name, as_json=as_json)


def notice(said: str | None, deadline: timedelta | None, silence: str | None) -> Document | None:
    """Who is to be asked: an address, or the words of a command; None: nobody.

    Raises:
        PreconditionFailed: these are no words, or nobody is to be asked, for some time.
    """
    how = given({"deadline_s": deadline, "silence": silence})
    if said is None and how:
        raise PreconditionFailed("--notice-deadline and --notice-silence are about --notice: give that as well")
    if said is None:
        return None
    if said.startswith(("http://", "https://")):
        return {"url": said, **how}
    try:
        return {"program": shlex.split(said), **how}
    except ValueError as error:
        raise PreconditionFailed(f"--notice {said!r} cannot be split into words: {error}") from error


def listed(*, as_json: bool) -> None:
    """Print a line for each policy."""
    rows = documents.policies()
    if as_json:
        output.emit({"policies": rows})
        return
    if not rows:
        output.note("no policy: `drover policy set NAME --selector LABELS --priority N` makes one")
    output.table(
        ("POLICY", "PRIORITY", "GUESTS WITH", "HOW", "GUESTS"),
        [(*_head(row), words.pairs(row["decides"]), len(row["guests"])) for row in rows],
    )


def show(name: str, *, as_json: bool) -> None:
    """Print one."""
    row = documents.policy(name)
    if as_json:
        output.emit(row)
        return
    _, priority, selector = _head(row)
    output.say(f"{name}, priority {priority}, for guests with {selector}: {words.pairs(row['decides'])}")
    for guest, instead in row["guests"].items():
        output.say(f"  {guest}" + (f": other policies decide {words.pairs(instead)}" if instead else ""))
    if not row["guests"]:
        output.note("no guest has these labels now: `drover guest set GUEST --label KEY=VALUE`")


def _head(row: Document) -> tuple[str, int, str]:
    return row["name"], row["priority"], row["selector"] or "any labels"
