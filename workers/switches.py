"""The worker's view of the switch processes of its host: starting one, watching it, and knowing the outcome."""

import asyncio
import re
import sys
import time
from collections.abc import Callable

from models.errors import Transient
from workers import processes
from workers.processes import Process
from workers.step import Context
from workers.switch import journal
from workers.switch.journal import Story
from workers.switch.orders import Order

POLL_S = 0.01
SILENCE_S = 2.0
"""A switch process shows a beat several times a second; so long without one means that it is frozen."""
START_S = 20.0
"""Until its first line it has touched nothing yet, and on a busy host Python takes its time."""


def role(attempt: int) -> str:
    """In the name under which the process of one attempt is found again."""
    return f"switch-{attempt}"


def running(ctx: Context, attempt: int) -> Process | None:
    """The switch process of one attempt on this host, if it lives."""
    return next(iter(processes.find(ctx.directory.mark(role(attempt)))), None)


def story(ctx: Context, attempt: int) -> Story:
    """What that process wrote down so far."""
    return journal.read(ctx.directory.switch_journal(ctx.claim.side, attempt))


def attempts(ctx: Context) -> list[int]:
    """The attempts begun on this host, oldest first."""
    found = ctx.directory.path.glob(f"switch-{ctx.claim.side}-*.jsonl")
    return sorted(int(match[1]) for path in found if (match := re.search(r"-(\d+)\.jsonl$", path.name)))


def crossed(ctx: Context) -> Story | None:
    """The attempt in which the source told the destination to run, if there is one. Ask on the source."""
    return next((told for attempt in attempts(ctx) if (told := story(ctx, attempt)).crossed), None)


def start(ctx: Context, attempt: int, order: Order) -> Process:
    """Start the switch process of this side.

    Its journal is there before it is: whoever takes over from a worker that dies meanwhile knows of the attempt, and
    neither starts a second process for it nor overlooks this one.
    """
    path = ctx.directory.switch_order(ctx.claim.side, attempt)
    order.save(path)
    ctx.directory.switch_journal(ctx.claim.side, attempt).touch()
    argv = [sys.executable, "-m", "workers.switch", str(ctx.claim.side), str(path)]
    return processes.spawn(ctx.directory.mark(role(attempt)), argv, ctx.directory.log(role(attempt)))


async def wait_for(ctx: Context, attempt: int, event: str, timeout_s: float) -> None:
    """Until the process wrote this line.

    Raises:
        Transient: it ended first, or took too long.
    """
    deadline = time.monotonic() + timeout_s
    while story(ctx, attempt).last(event) is None:
        process = running(ctx, attempt)
        if process is None or time.monotonic() > deadline:
            words = processes.last_words(ctx.directory.log(role(attempt)))
            raise Transient(f"the switch process on the {ctx.claim.side} is not {event}: {words or 'no reason given'}")
        await asyncio.sleep(POLL_S)


async def watch(ctx: Context, attempt: int, tell: Callable[[dict[str, int]], None]) -> Story:
    """Until the process ended, died or froze; a frozen one is killed, so that its word stands."""
    process = running(ctx, attempt)
    path = ctx.directory.switch_journal(ctx.claim.side, attempt)
    told, stamp, heard_at = Story(()), 0, time.monotonic()
    while process is not None and process.alive:
        if (changed := journal.changed_at(path)) != stamp:
            told, stamp, heard_at = story(ctx, attempt), changed, time.monotonic()
            if told.ended:
                break
            if told.last("migrating") and not told.last("pre-switchover"):
                tell(journal.read_beat(path))
        if time.monotonic() - heard_at > (SILENCE_S if told.lines else START_S):
            process.kill()
        await asyncio.sleep(POLL_S)
    return story(ctx, attempt)


def kill_all(ctx: Context) -> None:
    """End every switch process of this job on this host; what their journals say now is final."""
    ctx.guard()
    for attempt in attempts(ctx):
        process = running(ctx, attempt)
        if process is not None:
            process.kill()
