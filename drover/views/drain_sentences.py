"""What is said to people about a drain. No I/O."""

from drover.views.drain_queries import DrainShot
from drover.views.sentences import Command
from drover.views.serializers import public
from drover.views.words import span
from models.drain import Drain, DrainKind, DrainState, GuestState


def headline(shot: DrainShot) -> str:
    """The drain's host, state and number of moved guests."""
    drain = shot.drain
    what = "empties" if drain.kind is DrainKind.DRAIN else "brings guests home to"
    told = (
        f"drain {drain.id} {what} {drain.host}: {drain.state}, {shot.count(GuestState.MOVED)} of {len(shot.rows)} moved"
    )
    return told + (f"; {drain.wait_reason}" if drain.wait_reason else "")


def verdict(shot: DrainShot) -> str:
    """One line on how the drain ended."""
    drain = shot.drain
    if drain.state is DrainState.DONE and drain.kind is DrainKind.DRAIN:
        return (
            f"done: {drain.host} is empty and in maintenance; {len(shot.rows)} guests in {span(shot.total_s) or '0 s'}"
        )
    if drain.state is DrainState.DONE:
        return f"done: {len(shot.rows)} guests are home on {drain.host}, in {span(shot.total_s) or '0 s'}"
    if drain.state is DrainState.CANCELLED:
        return f"cancelled: {shot.count(GuestState.MOVED)} of {len(shot.rows)} guests had moved"
    return f"incomplete: {public(drain.error)}. `drover drain resume {drain.id}` tries those again"


EFFECTS = {
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
    return [Command(f"drover drain {action} {drain.id}", EFFECTS[action]) for action in POSSIBLE.get(drain.state, ())]
