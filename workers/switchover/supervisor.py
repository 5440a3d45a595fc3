"""The worker's view of the switchover processes of its host: start one, watch it, read its outcome."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from pydantic import TypeAdapter

from drover import logs
from drover.errors import Transient
from workers import files
from workers.process import processes
from workers.process.processes import Process
from workers.step import Context
from workers.switchover import journal
from workers.switchover.journal import JournalState
from workers.switchover.parameters import Parameters, wake

POLL_S = 0.01
SHORT_POLL_S = 0.002
"""For a process that begins, which is over within a few hundredths of a second."""
SILENCE_S = 2.0
"""A switchover process shows a beat several times a second; without one for this long it is frozen."""
START_S = 20.0
"""Until its first line it has touched nothing yet, and on a busy host Python starts slowly."""

ROLE = "switch-"
"""Begins the name under which such a process is found again; the number of the claim that started it follows."""


def running(ctx: Context, attempt: int) -> Process | None:
    """The switchover process of one attempt on this host, or the guardian that outlived it."""
    number = _number(ctx, attempt)
    return None if number is None else processes.one(ctx.directory.mark(f"{ROLE}{number}"))


def _number(ctx: Context, attempt: int) -> int | None:
    """The number of the process that got the parameters of an attempt."""
    its_journal = str(ctx.directory.switch_journal(ctx.claim.side, attempt))
    given = ctx.directory.parameters_files(ctx.claim.side)
    return next((number for number, path in given if json.loads(path.read_text())["journal"] == its_journal), None)


def journal_state(ctx: Context, attempt: int) -> JournalState:
    """What that process wrote down so far."""
    return journal.read(ctx.directory.switch_journal(ctx.claim.side, attempt))


def attempts(ctx: Context) -> list[int]:
    """The attempts begun on this host, oldest first."""
    return [attempt for attempt, _ in ctx.directory.switch_journals(ctx.claim.side)]


def committed(ctx: Context) -> JournalState | None:
    """The attempt whose journal has `run`, if there is one. To be called on the source."""
    return next((told for attempt in attempts(ctx) if (told := journal_state(ctx, attempt)).committed), None)


def let_go(ctx: Context) -> bool:
    """Whether the source's own journals allow that the guest is the destination's. To be called on the source."""
    told = (journal_state(ctx, attempt) for attempt in attempts(ctx))
    return any(one.committed or one.left_to_destination for one in told)


def prepare(ctx: Context) -> None:
    """Start this side's process before its parameters exist: Python takes a tenth of a second for it.

    Without parameters it touches nothing and is part of no attempt. It does not wait long, so that little of it is kept
    while a large disk is copied; where one waits already its time starts anew, and if it ends one is started
    when it is needed.
    """
    ctx.guard()
    if (number := _prepared(ctx)) is None:
        _spawn(ctx)
    else:
        wake(ctx.directory.parameters_file(ctx.claim.side, number))


def _prepared(ctx: Context) -> int | None:
    """The number of a living process that has no parameters yet."""
    numbers = (number for number, _ in _living(ctx))
    return next((n for n in numbers if not ctx.directory.parameters_file(ctx.claim.side, n).exists()), None)


def _spawn(ctx: Context) -> int:
    number, role = ctx.claim.token, f"{ROLE}{ctx.claim.token}"
    path = ctx.directory.parameters_file(ctx.claim.side, number)
    argv = [sys.executable, "-m", "workers.switchover", str(ctx.claim.side), str(path)]
    processes.spawn(
        ctx.directory.mark(role), argv, ctx.directory.log(role), environment=logs.handed_on(step="switchover")
    )
    return number


def start(ctx: Context, attempt: int, parameters: Parameters) -> None:
    """Have the switchover process of this side begin: the prepared one, or one that is started now.

    The journal is made before the parameters. So a worker that takes over meanwhile finds the attempt, and neither
    starts a second process for it nor overlooks this one.
    """
    number = _prepared(ctx)
    if number is None:
        number = _spawn(ctx)
    TypeAdapter(type(parameters)).validate_json(json.dumps(asdict(parameters)), strict=True)
    os.close(files.private(ctx.directory.switch_journal(ctx.claim.side, attempt), os.O_WRONLY))
    parameters.save(ctx.directory.parameters_file(ctx.claim.side, number))


async def wait_for(ctx: Context, attempt: int, event: str, timeout_s: float) -> None:
    """Until the process wrote this line.

    Raises:
        Transient: it ended first, or took too long.
    """
    deadline = time.monotonic() + timeout_s
    process = running(ctx, attempt)
    while journal_state(ctx, attempt).last(event) is None:
        if process is None or not process.alive or time.monotonic() > deadline:
            words = processes.log_tail(ctx.directory.log(f"{ROLE}{_number(ctx, attempt)}"))
            raise Transient(
                f"the switchover process on the {ctx.claim.side} is not {event}: {words or 'no reason given'}"
            )
        await asyncio.sleep(SHORT_POLL_S)


async def watch(ctx: Context, attempt: int, tell: Callable[[dict[str, int]], None]) -> JournalState:
    """Until the attempt is over: its process has ended, or is dead, and its guardian has done its part.

    Whichever of them is frozen is killed. Unless the guest was handed over, both are dead when this returns.
    """
    process = running(ctx, attempt)
    path = ctx.directory.switch_journal(ctx.claim.side, attempt)
    told, stamp, heard_at = JournalState(()), 0, time.monotonic()
    while process is not None:
        if (changed := journal.changed_at(path)) != stamp:
            told, stamp, heard_at = journal_state(ctx, attempt), changed, time.monotonic()
            if told.ended:
                break
            if told.last("migrating") and not told.last("pre-switchover"):
                tell(journal.read_beat(path))
        if time.monotonic() - heard_at > (SILENCE_S if told.lines else START_S):
            await kill_all(ctx, but_prepared=True)
        if not process.alive:
            process, heard_at = running(ctx, attempt), time.monotonic()  # its guardian, which acts now
        await asyncio.sleep(POLL_S)
    if not journal_state(ctx, attempt).committed:
        await kill_all(ctx, but_prepared=True)
    return journal_state(ctx, attempt)


async def kill_all(ctx: Context, *, but_prepared: bool = False) -> None:
    """End every switchover process of this job on this host, and its guardian; what their journals say now is final."""
    ctx.guard()
    doomed = [
        process
        for number, process in _living(ctx)
        if not but_prepared or ctx.directory.parameters_file(ctx.claim.side, number).exists()
    ]
    for process in doomed:  # all at once: a guardian would act once its process is dead
        process.signal(signal.SIGKILL)
    for process in doomed:
        await process.end_now()


def _living(ctx: Context) -> list[tuple[int, Process]]:
    marked = processes.marked(ctx.directory.path)
    return [(int(role.removeprefix(ROLE)), process) for role, process in marked if role.startswith(ROLE)]
