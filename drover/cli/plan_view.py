"""How plans of drains are shown, as text or as JSON."""

from drover import words
from drover.cli import output
from drover.cli.backend import operations
from drover.operations import Wanted
from drover.views import plans, read_back
from models.base import Document


def listed(wanted: Wanted, *, as_json: bool) -> None:
    """Print a line for each plan that was submitted."""
    rows = operations().plans(wanted)
    if as_json:
        output.emit({"plans": rows})
        return
    if not rows:
        none = "no plan waits (`--all` lists those that were applied or withdrawn)"
        output.note("no plan" if wanted.with_ended else none)
    output.table(
        ("PLAN", "STATE", "KIND", "HOST", "GUESTS", "TIME", "APPROVED", "SUBMITTED BY", "DRAIN"),
        [
            (
                *(row[name] for name in ("id", "state", "kind", "host", "guests")),
                words.span(row["total_s"]),
                f"{row['approved']} of {row['approvals_wanted']}",
                row["submitted_by"],
                row["drain"],
            )
            for row in rows
        ],
    )


def report(document: Document, *, as_json: bool) -> None:
    """Print a plan, and what is no longer as it says."""
    if as_json:
        output.emit(document)
        return
    shot, differs = read_back.plan_shot(document), document["differences"]
    output.table(
        ("GUEST", "FROM", "TO", "TIME", "HOW", "WHY", "REMARK"),
        [
            (
                *(move.guest, move.source, move.to, words.span(move.estimate_s)),
                *(words.pairs(move.policies) if move.policies else None, move.why, plans.remark(move, differs)),
            )
            for move in shot.plan.moves
        ],
    )
    for left in shot.plan.left:
        output.say(f"{left.guest} stays where it is and runs on: {left.why}")
    say_standing(document)


def say_standing(document: Document) -> None:
    """Print what a plan does, who has approved it and what has become of it."""
    shot = read_back.plan_shot(document)
    output.say(f"{plans.headline(shot)}; {plans.standing(shot)}")
