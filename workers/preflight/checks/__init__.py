"""Every check of a guest that is to be moved, as data, by what is looked at.

A module that looks yields `ROOM.KIND.of(...)` or `ROOM.KIND.found(...)`; nothing else says why a guest cannot be moved.
A new check is a `Kind` in its room and a line that yields it. `docs/reference/support.md` is written from this list.
"""

from collections.abc import Iterable

from models.preflight import Check
from workers.preflight.checks import disks, files, machine, network, process, rules, ties
from workers.preflight.checks.kind import Kind, Where

ROOMS = (machine, process, ties, network, disks, files, rules)
KINDS: tuple[Kind, ...] = tuple(kind for room in ROOMS for kind in vars(room).values() if isinstance(kind, Kind))
"""All of them, in this order."""


def told_once(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Without repetitions, and without those that another one explains: they would name a remedy that does not help."""
    found = tuple(dict.fromkeys(checks))
    named = {check.name for check in found}
    explained = {name for kind in KINDS if kind.name in named for name in kind.explains}
    return tuple(check for check in found if check.name not in explained)


def completed(side: Where, found: Iterable[Check]) -> tuple[Check, ...]:
    """What was found, and that nothing else of this side was."""
    told = tuple(found)
    names = {check.name for check in told}
    return (*told, *(kind.ok() for kind in KINDS if kind.side == side and kind.name not in names))


def at_destination(checks: Iterable[Check]) -> list[Check]:
    """Found by the destination in what would be started there."""
    return [check.model_copy(update={"side": "destination"}) for check in checks]
