"""After step 6: whether the guest is well where it runs now. What is found stops nothing, see `workers.health`."""

import asyncio
import time

from drover import words
from models.documents import Health
from models.event_action import EventAction
from models.job import Side, record_event
from workers.health import agent, owners_check, watching
from workers.health.watching import Seen
from workers.qemu.monitor import MonitorLost
from workers.step import Context, StepHandler
from workers.trust import policy

AGENT_S = 10.0
"""A guest that was paused for long has other things to do first."""
EVERY_GUEST = "*"
"""In the policy: the check of guests that have none of their own."""


class CheckGuest(StepHandler):
    """It is on record how the guest is."""

    name, side, attempts = "check_guest", Side.DESTINATION, 5

    async def verify(self, ctx: Context) -> bool:
        return ctx.job.health is not None and ctx.job.health.finished

    async def do(self, ctx: Context) -> None:
        begun, before = time.monotonic(), ctx.job.health or Health()
        seen, (answers, silent), failed = await asyncio.gather(_watched(ctx), _asked(ctx, before), _owners(ctx))
        problems = (*seen.problems, *silent, *failed)
        found = Health(
            finished=True,
            runstate=seen.runstate,
            reads=seen.reads,
            writes=seen.writes,
            agent_before=before.agent_before,
            agent=answers,
            problems=problems,
            seconds=round(time.monotonic() - begun, 3),
        )
        with ctx.record() as (session, job, _step):
            job.health = found
            job.way_back_needed = job.way_back_needed or bool(problems)
            action = EventAction.WARNING if problems else EventAction.CHECKED
            told = _alarm(ctx, found) if problems else _well(ctx, found)
            record_event(session, job.id, by=ctx.claim.owner, action=action, sentence=told)
        ctx.job.health = found


async def _watched(ctx: Context) -> Seen:
    try:
        async with ctx.guest() as monitor:
            wanted_s = ctx.job.options.watch_s
            return await watching.watch(monitor, ctx.settings.watch.total_seconds() if wanted_s is None else wanted_s)
    except MonitorLost as error:
        return Seen(problems=[f"its QEMU gives no answer: {error}"])


async def _asked(ctx: Context, before: Health) -> tuple[bool | None, list[str]]:
    """Whether its agent answers, and what is wrong about that: nothing if it did not answer at the source either."""
    path = agent.socket_of(ctx.destination.argv)
    if path is None:
        return None, []
    answers = await agent.answers(path, AGENT_S if before.agent_before else AGENT_S / 10)
    silent = ["its agent does not answer any more"] if before.agent_before and not answers else []
    return answers, silent


async def _owners(ctx: Context) -> list[str]:
    checks, wanted = policy.of(ctx.settings).file.checks, ctx.job.options.check
    if wanted is not None and wanted not in checks:
        return [f"there is no check {wanted} in {ctx.settings.policy}"]  # it was there when the move was planned
    check = checks.get(ctx.job.guest) or checks.get(wanted or EVERY_GUEST)
    if check is None:
        return []
    job = ctx.job
    environment = {
        "DROVER_GUEST": job.guest,
        "DROVER_JOB": str(job.id),
        "DROVER_SOURCE": job.source,
        "DROVER_DESTINATION": job.destination,
    }
    why = await owners_check.failure(check, environment)
    return [] if why is None else [f"the check of its owner failed within {words.duration(check.deadline_s)}: {why}"]


def _alarm(ctx: Context, found: Health) -> str:
    job = ctx.job
    return (
        f"{job.guest} is not well on {job.destination}: {'; '.join(found.problems)}. It goes on there, and "
        f"{job.source} keeps its images of the switchover until it has moved again: look at it; "
        f"`drover migrate {job.guest} --back` brings it back"
    )


def _well(ctx: Context, found: Health) -> str:
    agent_says = "; its agent answers" if found.agent else ""
    return (
        f"{ctx.job.guest} is well on {ctx.job.destination}: {found.runstate} for {found.seconds:g} s, "
        f"{found.reads} reads and {found.writes} writes, none failed{agent_says}"
    )
