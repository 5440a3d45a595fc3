"""The tables of states, as `docs/explanation/states.md` shows them."""

from textwrap import fill
from typing import Any

from lab.pages.markdown import replaced, table
from models.transitions import DRAIN, JOB, ROLL, ROLL_HOST, STEP, Table

WIDTH = 80
"""What the column of the site holds of a drawing."""


def page(text: str) -> str:
    """The page, with the tables as they are now."""
    shown = {"job": _diagram(JOB, "queued"), "step": _rows(STEP), "drain": _diagram(DRAIN, "queued")}
    shown |= {"roll": _diagram(ROLL, "running"), "host of a roll": _diagram(ROLL_HOST, "waiting")}
    for name, content in shown.items():
        text = replaced(text, f"states of a {name}", content)
    return text


def _diagram(table: Table[Any, Any], first: str) -> str:
    """Below each state what it may become, and why; what leads from one state to the same other one is one line."""
    why: dict[str, dict[str, list[str]]] = {first: {}}
    for row in table.rows:
        why.setdefault(row.state, {}).setdefault(row.after, []).append(row.why)
    widest = max(len(row.after) for row in table.rows)
    lines = []
    for state, ways in why.items():
        lines.append(f"{state}, which it begins in" if state == first else state)
        for after, reasons in ways.items():
            end = " (end)" if table.is_final(after) else ""
            told, margin = "; ".join(dict.fromkeys(reasons)), f"  -> {after + end:{widest + 6}}  "
            lines.append(fill(told, WIDTH, initial_indent=margin, subsequent_indent=" " * len(margin)))
    return "\n".join(["```text", *lines, "```"])


def _rows(of: Table[Any, Any]) -> str:
    """A table in Markdown: one line for each event and the state that it leads to."""
    lines: dict[tuple[str, str, str, str], list[str]] = {}
    for row in of.rows:
        by = ", ".join(sorted(row.actors))
        lines.setdefault((row.event, row.after, by, row.why), []).append(f"`{row.state}`")
    rows = ((event, ", ".join(states), f"`{after}`", by, why) for (event, after, by, why), states in lines.items())
    return table(("event", "from", "to", "by", "when"), rows)
