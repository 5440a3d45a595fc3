"""What is said to people about a drain. No I/O."""

from drover.views.drain_queries import DrainShot
from drover.views.sentences import Command
from drover.views.serializers import public
from drover.words import count, span
from models.drain import Drain, DrainKind, DrainState, GuestState


def headline(shot: DrainShot) -> str:
    """The drain's host, state, number of moved guests, and why it waits."""
    why = public(shot.drain.wait_reason)
    return standing(shot) + (f"; {why}" if why else "")


def standing(shot: DrainShot) -> str:
    """The same without the reason."""
    drain = shot.drain
    what = "empties" if drain.kind is DrainKind.DRAIN else "brings guests home to"
    return (
        f"drain {drain.id} {what} {drain.host}: {drain.state}, {shot.count(GuestState.MOVED)} of {len(shot.rows)} moved"
    )


def verdict(shot: DrainShot) -> str:
    """One line on how the drain ended."""
    drain, guests, took = shot.drain, count(len(shot.rows), "guest"), span(shot.total_s) or "0 s"
    if drain.state is DrainState.DONE and drain.kind is DrainKind.DRAIN and drain.selector:
        away = count(len(shot.rows), "guest is", "guests are")
        return f"done: {away} away from {drain.host} that {drain.selector!r} selects, in {took}"
    if drain.state is DrainState.DONE and drain.kind is DrainKind.DRAIN:
        return f"done: {drain.host} is empty and in maintenance; {guests} in {took}"
    if drain.state is DrainState.DONE:
        return f"done: {count(len(shot.rows), 'guest is', 'guests are')} home on {drain.host}, in {took}"
    if drain.state is DrainState.CANCELLED:
        return f"cancelled: {shot.count(GuestState.MOVED)} of {guests} had moved"
    return f"incomplete: {public(drain.error)}. `drover drain resume {drain.id}` tries those again"


EFFECTS = {
    "release": "the RAM of all its moves follows their disks, and the guests are moved",
    "pause": "no other move begins; those under way go on",
    "resume": "it goes on with the guests that are left",
    "cancel": "moves under way are rolled back; guests that have moved stay",
}
POSSIBLE = {
    DrainState.QUEUED: ("cancel",),
    DrainState.RUNNING: ("pause", "cancel"),
    DrainState.PAUSED: ("resume", "cancel"),
    DrainState.INCOMPLETE: ("resume",),
}


def commands(drain: Drain) -> list[Command]:
    """What an operator may do about a drain now."""
    actions = POSSIBLE.get(drain.state, ())
    actions = ("release", *actions) if drain.hold and not drain.state.ended else actions
    return [Command(f"drover drain {action} {drain.id}", EFFECTS[action]) for action in actions]
