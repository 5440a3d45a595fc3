"""The controller: makes sure that every job goes on, whatever was lost on the way.

Several may run; the one that holds an advisory lock acts. It looks at the rows, never at messages: a step that
is due and was not published, or was published and not picked up, is published again together with all that
remains; claims that ran out are taken away. All of that may happen twice without harm.
"""

import logging
import threading
import time
from datetime import timedelta
from typing import Any, cast

import psycopg
from celery.signals import worker_ready
from kombu.exceptions import OperationalError
from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, aliased

from models import claims
from models.database import engine, transaction
from models.host import Host, HostRequest
from models.job import CLAIMED, Job, JobState, Side, Step, StepState
from models.settings import Settings, settings
from workers.app import CONTROL_QUEUE
from workers.runner import STOPPING
from workflows import leadership, metrics, webhooks
from workflows.admission import admit
from workflows.drains import progress as drains
from workflows.jobs import WAKE_CHANNEL, go_on
from workflows.live_migration import remaining_chain
from workflows.questions import alive

log = logging.getLogger(__name__)

TICK_S = 1.0
QUESTIONS_KEPT = timedelta(hours=1)
ME = "controller"
LEADING = threading.Event()
"""Set while this process is the one that acts."""


@worker_ready.connect
def begin(sender: Any = None, **_: Any) -> None:
    """Act beside the worker that serves the control queue."""
    queues = sender.app.amqp.queues.consume_from if sender is not None else {}
    if CONTROL_QUEUE in queues:
        threading.Thread(target=run, args=(settings(),), name="controller", daemon=True).start()
        if settings().metrics_address:
            metrics.serve(settings(), LEADING.is_set)


def run(ours: Settings) -> None:
    """Act until the process is told to stop; after any error wait a moment and go on."""
    while not STOPPING.is_set():
        try:
            _act_while_leading(ours)
        except (SQLAlchemyError, psycopg.Error, OperationalError, OSError) as error:
            log.warning("the controller waits for its services: %s", error)
            STOPPING.wait(TICK_S)


def _act_while_leading(ours: Settings) -> None:
    """One connection of its own holds the lock and hears the notifications; losing it ends the lead."""
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not leadership.take(connection):
            STOPPING.wait(TICK_S)
            return
        connection.execute(text(f"LISTEN {WAKE_CHANNEL}"))
        raw = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
        LEADING.set()
        try:
            while not STOPPING.is_set():
                tick(ours)
                for _ in raw.notifies(timeout=TICK_S, stop_after=1):
                    pass
        finally:
            LEADING.clear()


def tick(ours: Settings) -> None:
    """Look at every job that has not ended, once."""
    with transaction() as session:
        claims.expire(session, claims.overdue(), "its worker was not heard of in time", by=ME, wait=False)
        session.execute(delete(HostRequest).where(HostRequest.created_at < func.clock_timestamp() - QUESTIONS_KEPT))
    for job_id in _waiting_for_a_host(ours):
        with transaction() as session:
            go_on_with_returned(session, job_id)
    with transaction() as session:
        admit(session, ours)
    for job_id in _due(ours):
        with transaction() as session:
            job = claims.lock(session, job_id, wait=False)
            if job is not None:
                advance(session, job)
                give_up_waiting(session, job, ours)
    drains.tick(ours)  # after what a job may wait for
    webhooks.tick()


def _due(ours: Settings) -> list[int]:
    """Jobs with something to publish or to turn round."""
    with transaction() as session:
        claimed = aliased(Step)
        stale = Step.enqueued_at < func.clock_timestamp() - ours.republish_after
        due = (
            select(Job.id)
            .join(Step)
            .where(
                Job.state.in_([JobState.RUNNING, JobState.UNDOING]),
                Step.next_at <= func.clock_timestamp(),
                Step.enqueued_at.is_(None) | stale,
                ~exists().where(claimed.job_id == Job.id, claimed.state.in_(CLAIMED)),
            )
        )
        return sorted(set(session.scalars(due)))


def advance(session: Session, job: Job) -> None:
    """Turn round or publish one job. Hold its row's lock."""
    idle = not any(step.state in CLAIMED for step in job.steps)
    if job.state is JobState.RUNNING and job.cancel_requested and job.crossed_at is None and idle:
        claims.begin_undo(session, job, "cancelled on request", by=ME)
    _publish(session, job)


def give_up_waiting(session: Session, job: Job, ours: Settings) -> None:
    """A job whose next step is on a host that has been silent for too long. Hold its row's lock.

    Before a cutover was begun it is undone: the guest stays on the source. Later the destination may run it for all
    we know, and undoing needs the silent host as well: an operator must say what has become of it, because
    unreachable is not dead.
    """
    step = claims.runnable(job)
    if step is None or not _silent_for_long(session, step.host, ours):
        return
    silent = f"{step.host} has not been heard of for {ours.host_patience.total_seconds():g} s"
    if job.state is JobState.RUNNING and job.cutover_begun_at is None:
        claims.begin_undo(session, job, silent, by=ME)
    else:
        owner = Side.DESTINATION if step.side is Side.SOURCE else Side.SOURCE
        claims.ask_operator(session, job, f"{silent}: {_choices(job, step.host, owner)}", by=ME)


def _waiting_for_a_host(ours: Settings) -> list[int]:
    """Jobs that ask for an operator although no step failed, and whose hosts are all there again."""
    failed = exists().where(Step.job_id == Job.id, Step.state == StepState.FAILED)
    silent = exists().where(Host.name.in_([Job.source, Job.destination]), ~alive(ours))
    with transaction() as session:
        waiting = select(Job.id).where(Job.state == JobState.NEEDS_OPERATOR, ~failed, ~silent)
        return list(session.scalars(waiting))


def go_on_with_returned(session: Session, job_id: int) -> None:
    """What only the silence of a host stopped goes on once it is back: each step looks before it acts."""
    job = claims.lock(session, job_id, wait=False)
    if job is not None and job.state is JobState.NEEDS_OPERATOR:
        go_on(session, job, f"{job.source} and {job.destination} are both heard of again", by=ME)


def _choices(job: Job, silent: str, owner: Side) -> str:
    """To wait, or a command."""
    lost = ""
    if owner is Side.SOURCE and job.crossed_at is not None:
        lost = f" ({job.guest} went there at {job.crossed_at:%H:%M:%S %Z}: what it did on {silent} since is lost then)"
    return (
        f"the job goes on by itself once it is back; if it is off for good and {job.guest} is not running there, "
        f"`drover job resolve {job.id} --owner {owner} --fenced {silent}`{lost}"
    )


def _silent_for_long(session: Session, host: str, ours: Settings) -> bool:
    longest = func.clock_timestamp() - ours.host_patience
    return bool(session.scalar(select(Host.heartbeat_at < longest).where(Host.name == host)))


def _publish(session: Session, job: Job) -> None:
    """Send the chain of what remains, then note that it was sent: at least once, never silently not."""
    step = claims.runnable(job)
    if step is None or not _ready(session, step):
        return
    chain = remaining_chain(job)
    if chain is None:
        return
    begun = time.monotonic()
    chain.apply_async()
    step.enqueued_at = func.clock_timestamp()
    log.info("job %d goes on with %s on %s (%.3f s)", job.id, step.name, step.host, time.monotonic() - begun)


def _ready(session: Session, step: Step) -> bool:
    """It is due, was not published lately, and its host is there to take it."""
    ours = settings()
    fresh = Step.enqueued_at >= func.clock_timestamp() - ours.republish_after
    return bool(
        session.scalar(
            select(Step.seq)
            .join(Host, Host.name == Step.host)
            .where(
                Step.job_id == step.job_id,
                Step.seq == step.seq,
                Step.next_at <= func.clock_timestamp(),
                Step.enqueued_at.is_(None) | ~fresh,
                Host.heartbeat_at > func.clock_timestamp() - ours.host_timeout,
            )
        )
    )
