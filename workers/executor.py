"""Runs one claimed step. Leases, retries and outcomes are handled only here.

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

from drover import logs, names, tracing, words
from drover.errors import Committed, DroverError, LeaseLost, NeverRan, PreconditionFailed, StepError, Transient, Unknown
from drover.settings import Settings
from models.database import passing
from models.job import Direction, Job, Outcome
from workers.announcing import Announcer
from workers.step import Context, StepHandler
from workflows.migration import claims
from workflows.migration.claims import Claim
from workflows.migration.links import BeginAnew

log = logging.getLogger(__name__)

STOPPING = threading.Event()
"""Set when the worker is stopping: running steps hand their claims back."""

BACK_OFF = (timedelta(seconds=1), timedelta(seconds=5), timedelta(seconds=20))
POLL_S = 0.25
ROLLBACK_ATTEMPTS = 8
"""Rolling back is tried more often than doing: if it fails, an operator is needed."""


class HandedBack(DroverError):
    """The worker ends; another one goes on with the step."""


class Cancelled(StepError):
    """The job's cancellation was requested."""


class ChainStops(Ignore):
    """The chain must not go on, and somebody else is in charge of that."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


def run(step: StepHandler, claim: Claim, settings: Settings, announcer: Announcer | None = None) -> None:
    """Do or roll back a claimed step and record the outcome.

    Raises:
        ChainStops: the step is not done, and did not fail for good.
        StepError: the step failed for good; Flower shows it.
    """
    job = claim.job
    fields = {"job": job.id, "guest": job.guest, "step": claim.name, "attempt": claim.token}
    name = claim.name
    if claim.direction is not Direction.DO:
        fields["direction"], name = claim.direction, f"{claim.direction} {name}"
    with (
        logs.about(**fields, **logs.trace_of(job.traceparent)),
        tracing.span(name, job.traceparent, **fields, host=settings.host, side=claim.side) as span,
    ):
        _run(step, claim, settings, announcer, span)


def _run(step: StepHandler, claim: Claim, settings: Settings, announcer: Announcer | None, span: tracing.Span) -> None:
    log.info("begins (try %d)", claim.attempt)
    begun = time.monotonic()
    outcome, another = Outcome.FAILED, None
    try:
        _carry_through(step, claim, settings, announcer)
        outcome = Outcome.DONE
    except BaseException as error:
        if isinstance(error, ChainStops):
            outcome, another = error.outcome, f"{error.outcome}: {error.__cause__}"
        span.failed(str(error.__cause__ or error))
        raise
    finally:
        seconds = round(time.monotonic() - begun, 3)
        span.set(outcome=outcome.value)
        if announcer is not None:
            announcer.end(another)
        log.info("ends: %s after %g s", outcome, seconds, extra={"outcome": outcome.value, "seconds": seconds})


def _carry_through(step: StepHandler, claim: Claim, settings: Settings, announcer: Announcer | None) -> None:
    try:
        _refuse_a_forged_name(claim.job)
        ctx = Context(claim=claim, settings=settings, announcer=announcer)
        asyncio.run(_under_lease(step, ctx))
        claims.finish(claim)
    except HandedBack as error:
        _stops(error)
        with _recording():
            claims.hand_back(claim)
        raise ChainStops(Outcome.HANDED_BACK) from error
    except LeaseLost as error:
        _stops(error)
        raise ChainStops(Outcome.LEASE_LOST) from error
    except Exception as error:
        if passing(error):
            log.warning(
                "stops, Postgres cannot be used; once its lease has run out the step is begun again: %s",
                words.first_line(error),
            )
            raise ChainStops(Outcome.NOT_RECORDED) from error
        _failed(step, claim, error)


def _refuse_a_forged_name(job: Job) -> None:
    """Paths are made from it. Whoever wrote such a row got past Postgres's own check.

    Raises:
        Unknown: no guest can be called that.
    """
    try:
        names.check(job.guest, "a guest")
    except PreconditionFailed as error:
        raise Unknown(
            f"this step was refused and touched nothing: {error}. Drover writes no such name: look who else writes to "
            "the database"
        ) from None


def _stops(error: Exception) -> None:
    log.warning("stops, another claim goes on with the step: %s", error)


def _failed(step: StepHandler, claim: Claim, error: Exception) -> None:
    if isinstance(error, DroverError):
        log.warning("does not succeed: %s", error, exc_info=error if log.isEnabledFor(logging.DEBUG) else None)
    else:
        log.error("fails by an unexpected error", exc_info=error)
    with _recording():
        _settle(step, claim, error)


@contextmanager
def _recording() -> Iterator[None]:
    """Where the outcome cannot be written the lease runs out, and the step is looked at again."""
    try:
        yield
    except LeaseLost as lost:
        raise ChainStops(Outcome.LEASE_LOST) from lost
    except SQLAlchemyError as error:
        if not passing(error):
            raise
        log.warning(
            "the outcome of the step could not be written to Postgres; the step is looked at again: %s",
            words.first_line(error),
        )
        raise ChainStops(Outcome.NOT_RECORDED) from error


def _settle(step: StepHandler, claim: Claim, error: Exception) -> None:
    text = str(error) if isinstance(error, DroverError) else f"{type(error).__name__}: {error}"
    if isinstance(error, Cancelled):
        claims.give_up(claim, text)
        raise ChainStops(Outcome.CANCELLED) from error
    if isinstance(error, Committed):
        claims.go_forward(claim, text)
        raise ChainStops(Outcome.COMMITTED) from error
    if isinstance(error, NeverRan):
        claims.go_back(claim, text)
        raise error
    if isinstance(error, Unknown):
        claims.stop_for_operator(claim, text)
        raise error
    again = isinstance(error, Transient) or claim.direction is Direction.ROLLBACK
    limit = ROLLBACK_ATTEMPTS if claim.direction is Direction.ROLLBACK else step.attempts
    restart = error.restart if isinstance(error, BeginAnew) and claim.direction is Direction.DO else None
    tries = claim.tries if restart is None else claim.attempt  # what begins anew has made no progress
    if not again or tries >= limit:
        claims.fail(claim, text)
        raise error
    wait = getattr(error, "retry_in", None) or BACK_OFF[min(tries, len(BACK_OFF)) - 1]
    claims.retry(claim, text, wait, restart)
    raise ChainStops(Outcome.RETRY) from error


async def _under_lease(step: StepHandler, ctx: Context) -> None:
    with _renewing(ctx):
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
    """Renew the lease for the time of a `with` block, in a thread, so that the lease
    does not run out while slow storage or a slow database blocks the step's event loop.
    """
    over = threading.Event()
    renewing = threading.Thread(
        target=logs.carrying(_renew_until), args=(over, ctx), name=f"lease of job {ctx.job.id}", daemon=True
    )
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join(ctx.settings.lease_margin.total_seconds())  # a frozen database holds it up for longer


def _renew_until(over: threading.Event, ctx: Context) -> None:
    claim, level = ctx.claim, logging.WARNING
    renew_every, tried_at = ctx.settings.lease_ttl.total_seconds() / 3, 0.0
    while not over.wait(POLL_S):
        if time.monotonic() < renew_every + max(claim.renewed_at, tried_at):
            continue
        tried_at = time.monotonic()
        try:
            claims.renew(claim, ctx.settings)
            level = logging.WARNING
        except LeaseLost:
            claim.deadline = 0.0  # the next `check` stops the step
            break
        except SQLAlchemyError as error:  # the lease lasts a while longer; `check` ends it
            left_s = claim.deadline - time.monotonic()
            log.log(
                level,
                "the lease could not be renewed; the step stops in %.0f s if that goes on: %s",
                left_s,
                words.first_line(error),
            )
            level = logging.DEBUG  # an outage is one line
