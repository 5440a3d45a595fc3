"""Brings one claimed step about: the only place that knows of leases, retries and outcomes.

The step and the renewal of its lease run side by side; whichever ends first ends the other. Every outcome is
written to the database before the Celery task returns, and only a step that is done lets the chain go on.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from celery.exceptions import Ignore
from sqlalchemy.exc import SQLAlchemyError

from drover.errors import Committed, DroverError, LeaseLost, NeverRan, StepError, Transient, Unknown
from drover.settings import Settings
from models.database import passing
from models.job import Direction
from workers.step import Context, StepHandler
from workflows.migration import claims
from workflows.migration.claims import Claim

log = logging.getLogger(__name__)

STOPPING = threading.Event()
"""Set when the worker was asked to end: running steps hand their claims back."""

BACK_OFF = (timedelta(seconds=1), timedelta(seconds=5), timedelta(seconds=20))
POLL_S = 0.25
ROLLBACK_ATTEMPTS = 8
"""Rolling back is tried longer than doing: the alternative is a person's work."""


class HandedBack(DroverError):
    """The worker ends; another one goes on with the step."""


class Cancelled(StepError):
    """The job's cancellation was requested."""


def run(step: StepHandler, claim: Claim, settings: Settings, announce: object = None) -> None:
    """Do or roll back a claimed step and record the outcome.

    Raises:
        Ignore: the chain must not go on, and somebody else is in charge of that.
        StepError: the step failed for good; Flower shows it.
    """
    try:
        ctx = Context(claim=claim, settings=settings)
        if callable(announce):
            ctx.announce = announce
        asyncio.run(_under_lease(step, ctx))
        claims.finish(claim)
    except (LeaseLost, HandedBack) as error:
        _let_go(claim, error)
        raise Ignore from error
    except Exception as error:
        if passing(error):
            _let_go(claim, error)
            raise Ignore from error
        _failed(step, claim, error)


def _let_go(claim: Claim, error: Exception) -> None:
    """Stop without a verdict: the lease ends by itself where it cannot be handed back."""
    log.warning("step %s of job %d stops: %s", claim.name, claim.job_id, error)
    if isinstance(error, HandedBack):
        with _unless_away(claim):
            claims.hand_back(claim)


def _failed(step: StepHandler, claim: Claim, error: Exception) -> None:
    log.warning("step %s of job %d failed", claim.name, claim.job_id, exc_info=error)
    try:
        with _unless_away(claim):
            _settle(step, claim, error)
    except LeaseLost as lost:
        raise Ignore from lost


@contextmanager
def _unless_away(claim: Claim) -> Iterator[None]:
    """Where the verdict cannot be written down the lease ends by itself, and the step is looked at again."""
    try:
        yield
    except SQLAlchemyError as error:
        if not passing(error):
            raise
        log.warning("how %s of job %d ended could not be written down: %s", claim.name, claim.job_id, error)
        raise Ignore from error


def _settle(step: StepHandler, claim: Claim, error: Exception) -> None:
    text = str(error) if isinstance(error, DroverError) else f"{type(error).__name__}: {error}"
    if isinstance(error, Cancelled):
        claims.give_up(claim, text)
        raise Ignore from error
    if isinstance(error, Committed):
        claims.go_forward(claim, text)
        raise Ignore from error
    if isinstance(error, NeverRan):
        claims.go_back(claim, text)
        raise error
    if isinstance(error, Unknown):
        claims.stop_for_operator(claim, text)
        raise error
    again = isinstance(error, Transient) or claim.direction is Direction.ROLLBACK
    limit = ROLLBACK_ATTEMPTS if claim.direction is Direction.ROLLBACK else step.attempts
    restart_from = getattr(error, "restart_from", None)
    tries = claim.tries if restart_from is None else claim.attempt  # what begins anew has got nowhere
    if not again or tries >= limit:
        claims.fail(claim, text)
        raise error
    wait = getattr(error, "retry_in", None) or BACK_OFF[min(tries, len(BACK_OFF)) - 1]
    claims.retry(claim, text, wait, restart_from)
    raise Ignore from error


async def _under_lease(step: StepHandler, ctx: Context) -> None:
    with _renewing(ctx):
        await _watched(step, ctx)


async def _watched(step: StepHandler, ctx: Context) -> None:
    work = asyncio.create_task(_bring_about(step, ctx))
    watch = asyncio.create_task(_watch(step, ctx))
    done, running = await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
    for task in running:
        task.cancel()
    await asyncio.gather(*done, *running, return_exceptions=True)
    for task in sorted(done, key=lambda task: task is watch):
        task.result()


async def _bring_about(step: StepHandler, ctx: Context) -> None:
    if ctx.claim.direction is Direction.ROLLBACK:
        await step.rollback(ctx)
        return
    if not await step.verify(ctx):
        await step.do(ctx)
        if not await step.verify(ctx):
            raise Transient(f"{step.name} took no effect")


async def _watch(step: StepHandler, ctx: Context) -> None:
    """End when the lease is lost, when the worker stops, or when the job is cancelled."""
    refused = ctx.claim.direction is Direction.ROLLBACK
    while True:
        ctx.claim.check()
        if STOPPING.is_set():
            raise HandedBack("the worker is stopping")
        if ctx.claim.cancel_requested and not refused:
            if await step.abandon(ctx):
                raise Cancelled("cancelled on request")
            refused = True
        await asyncio.sleep(POLL_S)


@contextmanager
def _renewing(ctx: Context) -> Iterator[None]:
    """Renew the lease for the time of a `with` block, in a thread: what holds up the step's event loop, such as slow
    storage or a slow database, does not cost it its lease.
    """
    over = threading.Event()
    renewing = threading.Thread(target=_renew_until, args=(over, ctx), name=f"lease of job {ctx.job.id}", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join(ctx.settings.lease_margin.total_seconds())  # a frozen database holds it up for longer


def _renew_until(over: threading.Event, ctx: Context) -> None:
    renew_every, tried_at = ctx.settings.lease_ttl.total_seconds() / 3, 0.0
    while not over.wait(POLL_S):
        if time.monotonic() >= renew_every + max(ctx.claim.renewed_at, tried_at):
            tried_at = time.monotonic()
            if not _renew(ctx):
                break


def _renew(ctx: Context) -> bool:
    """False once it is lost for good."""
    try:
        claims.renew(ctx.claim, ctx.settings)
    except LeaseLost:
        ctx.claim.deadline = 0.0  # the next `check` stops the step
        return False
    except SQLAlchemyError as error:  # the lease lasts a while longer; `check` ends it
        log.warning("the lease of job %d could not be renewed: %s", ctx.claim.job_id, error)
    return True
