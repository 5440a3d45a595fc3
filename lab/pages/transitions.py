"""The tables of states, as `docs/explanation/states.md` shows them."""

from typing import Any

from lab.pages.marked import replaced
from models.transitions import DRAIN, JOB, ROLL, ROLL_HOST, STEP, Table


def page(text: str) -> str:
    """The page, with the tables as they are now."""
    shown = {"job": _diagram(JOB, "queued"), "step": _rows(STEP), "drain": _diagram(DRAIN, "queued")}
    shown |= {"roll": _diagram(ROLL, "running"), "host of a roll": _diagram(ROLL_HOST, "waiting")}
    for name, content in shown.items():
        text = replaced(text, f"states of a {name}", content)
    return text


def _diagram(table: Table[Any, Any], first: str) -> str:
    """A state diagram for Mermaid; what leads from one state to the same other one is one arrow."""
    why: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        why.setdefault((row.state, row.after), []).append(row.why)
    arrows = [f"{state} --> {after}: {'; '.join(dict.fromkeys(reasons))}" for (state, after), reasons in why.items()]
    states = dict.fromkeys(state for row in table.rows for state in (row.state, row.after))
    ends = [f"{state} --> [*]" for state in states if table.is_final(state)]
    lines = "\n".join(f"    {line}" for line in [f"[*] --> {first}", *arrows, *ends])
    return f"```mermaid\nstateDiagram-v2\n{lines}\n```"


def _rows(table: Table[Any, Any]) -> str:
    """A table in Markdown: one line for each event and the state that it leads to."""
    head = ["| event | from | to | by | when |", "| --- | --- | --- | --- | --- |"]
    lines: dict[tuple[str, str, str, str], list[str]] = {}
    for row in table.rows:
        by = ", ".join(sorted(row.actors))
        lines.setdefault((row.event, row.after, by, row.why), []).append(f"`{row.state}`")
    body = [
        f"| {event} | {', '.join(states)} | `{after}` | {by} | {why} |"
        for (event, after, by, why), states in lines.items()
    ]
    return "\n".join([*head, *body])
