"""Which commands can be done by buttons, and what follows of each."""

import re
from urllib.parse import urlencode

from models.access import Scope
from workflows.permissions import Person

COMMAND = re.compile(
    r"drover (job|drain|roll|plan) ([\w-]+) (\d+)(?: --owner (source|destination))?(?: --fenced (\S+))?"
)
EFFECTS = {
    (
        "job",
        "cancel",
    ): "The job is rolled back; the guest goes on at the source, unless it has moved already.",
    ("job", "release"): "The RAM follows the disks now, and the guest is moved.",
    ("job", "complete-now"): "",  # its page tells the price
    ("job", "retry"): "The job goes on from the step that failed.",
    ("job", "resolve"): "Make sure of it first: two running copies destroy a guest's disks.",
    ("drain", "pause"): "No other move begins; those under way go on.",
    ("drain", "resume"): "It goes on, and tries guests again that it had left.",
    ("drain", "release"): "All its held moves send their RAM now.",
    ("drain", "cancel"): "Its moves under way are rolled back; guests that have moved stay where they are.",
    ("roll", "pause"): "Nothing else of it begins; a drain, a hook or a return under way ends by itself.",
    ("roll", "resume"): "It goes on, and tries again what has failed.",
    ("roll", "cancel"): "Its drains and returns under way are cancelled; a hook that works is left to its end.",
    ("plan", "approve"): "You have read the plan, and have nothing against it. Where four eyes are wanted another "
    "one applies it.",
    ("plan", "apply"): "Its drain begins: each guest goes where the plan says, or stays where it is.",
    ("plan", "withdraw"): "Nobody approves or applies it any more, and its approvals are void.",
}
"""{(kind, action): what follows}."""


def button(command: str, person: Person | None) -> str:
    """Where a command can be done by a button of this person's; empty: nowhere."""
    found = COMMAND.fullmatch(command)
    if person is None or found is None or (found[1], found[2]) not in EFFECTS:
        return ""
    if not person.scope.includes(needed(found[2])):
        return ""
    said = {name: value for name, value in (("owner", found[4]), ("fenced", found[5])) if value}
    return f"/{found[1]}s/{found[3]}/{found[2]}" + (f"?{urlencode(said)}" if said else "")


def needed(action: str) -> Scope:
    """What somebody has to be allowed for it."""
    return Scope.APPROVE if action in {"resolve", "approve"} else Scope.OPERATE
