"""The controller: makes sure that every job goes on, also after lost messages.

Several may run; the one that holds an advisory lock leads. It looks at the rows, never at messages: a step that
is due and was not published, or was published and not picked up, is published again together with all that
remains; claims that ran out are taken away. All of that may happen twice without harm.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from celery.signals import worker_init
from kombu.exceptions import OperationalError as BrokerUnreachable
from redis.exceptions import RedisError
from sqlalchemy import ColumnElement, Select, delete, exists, func, select
from sqlalchemy.orm import Session, aliased

from drover import logs, metrics, webhooks, words
from drover.broker import health
from drover.broker.app import CONTROL_QUEUE
from drover.controller import notices, rolls, windows
from drover.errors import PreconditionFailed
from drover.settings import Settings, settings
from models import decision_log, fleet
from models.database import away, listening, transaction, unpooled
from models.event_action import EventAction
from models.fleet import FleetLimits
from models.host import Host, HostRequest
from models.job import Job, JobState, Side, Step, record_event
from models.notifications import Channel
from models.said import Said
from models.transitions import CLAIMED, GOING_ON, Actor, StepState
from workers.executor import STOPPING
from workflows import host_keys, isolation, leader_election, outages, storages, twins
from workflows.drain import reconciler as drains
from workflows.drain.notices import unanswered
from workflows.migration import admission, claims
from workflows.migration.admission import admit
from workflows.migration.chain import remaining_chain
from workflows.migration.jobs import go_on
from workflows.presence import alive
from workflows.roll import reconciler as roll_reconciler

log = logging.getLogger(__name__)

TICK_S = 1.0
LEAST_S = 0.05
"""Between two looks, however often it is woken: any role of the database may do that."""
CHECK_S = 5.0
"""How often the controller that leads checks that it can publish."""
FAILING_S = 3.0
"""If looks fail as a whole for this long, the lead ends."""
PAUSE_S = 5.0
"""For this long it then leaves the lead to others."""
TWINS_S = 5.0
"""How often it looks whether a guest runs twice."""
QUESTIONS_KEPT = timedelta(hours=1)
ME = "controller"
UNPUBLISHED = "Redis takes no messages"
"""How the reason of a job begins whose next step cannot be published; it goes when it can."""
LEADING = threading.Event()
"""Set while this process leads."""
_looked: dict[str, float] = {}
"""When it did so last."""
_reported: set[str] = set()
"""Services that are unreachable in the present outage and were logged."""


@worker_init.connect
def begin(sender: Any = None, **_: Any) -> None:
    """Run beside the worker that serves the control queue, also while that waits for Redis."""
    queues = sender.app.amqp.queues.consume_from if sender is not None else {}
    if CONTROL_QUEUE in queues:
        threading.Thread(target=run, args=(settings(),), name="controller", daemon=True).start()
        if settings().metrics_address:
            metrics.serve(settings(), LEADING.is_set)


def run(ours: Settings) -> None:
    """Run until the process stops. An exception does not end this: it is logged and, after a pause in which another
    controller may take the lead, this one tries again.
    """
    while not STOPPING.is_set():
        try:
            lead(ours)
        except Exception as error:
            _log(error, "the controller does not lead")
            STOPPING.wait(PAUSE_S)


def lead(ours: Settings) -> None:
    """Lead while holding the lock; when another controller holds it, wait a moment.

    A separate connection holds the lock and receives the notifications. It is closed when the lead ends.

    Raises:
        Exception: the lead was lost or given up.
    """
    with unpooled() as connection:
        if leader_election.anybody_acts(connection):
            STOPPING.wait(TICK_S)
            return
        if not _can_publish():
            STOPPING.wait(PAUSE_S)  # another controller may be able to publish
        if not leader_election.acquire(connection):
            return
        with listening(connection, Channel.WAKE, Channel.SAID) as wait:
            LEADING.set()
            if not _reported:  # else an outage goes on, in which it tries again and again
                log.info("leads: this controller handles all jobs and drains")
            try:
                _act(ours, wait)
            finally:
                LEADING.clear()


def _can_publish() -> bool:
    """If no controller can publish, one still leads: jobs must get a `wait_reason`, and claims must run out."""
    try:
        health.check_broker()
    except Exception as error:
        _log(error, "the controller leaves the lead to others")
        return False
    return True


def _act(ours: Settings, wait: Callable[[float], list[str]]) -> None:
    """Look repeatedly. If looks fail as a whole for some seconds the lead ends: another controller may succeed.

    Raises:
        Exception: what the last look failed with, or the connection was lost.
    """
    failing_since, check_at = None, 0.0
    while not STOPPING.is_set():
        try:
            tick(ours)
            if time.monotonic() >= check_at:
                with transaction() as session:
                    outages.controller_looks(session, ME)
                health.check_broker()
                check_at = time.monotonic() + CHECK_S
                _reported.clear()  # both can be reached: the outage is over
            failing_since = None
        except Exception as error:
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since >= FAILING_S:
                raise
            _log(error, "a look of the controller failed")
            check_at = 0.0  # with the next look
        STOPPING.wait(LEAST_S)
        wait(TICK_S)


def _log(error: Exception, what: str) -> None:
    """One line for an outage of database or broker; anything else is a bug, logged with its traceback."""
    if away(error) or isinstance(error, (BrokerUnreachable, RedisError, ConnectionError)):
        missing = "Postgres" if away(error) else "Redis"
        if missing not in _reported:
            told = f"{type(error).__name__}: {words.first_line(error)}"
            log.warning("%s, %s is unreachable; guests run on: %s", what, missing, told)
        _reported.add(missing)
    else:
        log.error("%s", what, exc_info=error)


def tick(ours: Settings) -> None:
    """Look at every job that has not ended, once. At rest this is one statement.

    One part that fails does not keep the others from being done.

    Raises:
        Exception: what the first of the parts failed with; what concerned one row alone is set aside, see `isolation`.
    """
    at_hand = _look(ours)
    due = at_hand.due or at_hand.overdue or at_hand.stopped or at_hand.waiting
    parts: list[tuple[bool, Callable[[Settings], None]]] = [
        (at_hand.said, _log_what_commands_said),
        (at_hand.overdue, _expire_overdue),
        (at_hand.old_questions, _delete_old_questions),
        (at_hand.gone_storages, _forget_gone_storages),
        (at_hand.stopped, _go_on_with_all_returned),
        (at_hand.in_windows, windows.tick),
        (at_hand.waiting, _admit),
        (due, _advance_all),
        (at_hand.drains, drains.tick),  # after what a job may wait for
        (at_hand.rolls, rolls.tick),
        (at_hand.notices, notices.tick),
        (at_hand.deliveries, webhooks.tick),
        (at_hand.changed_keys, _follow_renewed_keys),
        (_is_time(), _look_for_twins),
    ]
    errors = [error for wanted, part in parts if wanted and (error := _tried(part, ours))]
    if errors:
        raise errors[0]


def _log_what_commands_said(_: Settings) -> None:
    with transaction() as session:
        decision_log.take_said(session)


def _follow_renewed_keys(_: Settings) -> None:
    host_keys.follow_renewed()


def _is_time() -> bool:
    return time.monotonic() >= _looked.get("twins", float("-inf")) + TWINS_S


def _look_for_twins(ours: Settings) -> None:
    _looked["twins"] = time.monotonic()
    twins.look(ours)


def _tried(part: Callable[[Settings], None], ours: Settings) -> Exception | None:
    try:
        part(ours)
    except Exception as error:
        _log(error, f"the controller's {part.__name__.strip('_')} failed")
        return error
    return None


def _expire_overdue(ours: Settings) -> None:
    with transaction() as session:
        ids = session.scalars(select(Step.job_id).where(Step.state.in_(CLAIMED), claims.overdue()).distinct()).all()
    isolation.each("take its claim away", Job, sorted(ids), _expire)


def _expire(job_id: int) -> None:
    mine, why = claims.overdue() & (Step.job_id == job_id), "its worker did not renew the lease in time"
    with transaction() as session:
        claims.expire(session, mine, why, actor=Actor.CONTROLLER, by=ME, wait=False)


def _delete_old_questions(ours: Settings) -> None:
    with transaction() as session:
        free = select(HostRequest.id).where(_old()).with_for_update(skip_locked=True)
        session.execute(delete(HostRequest).where(HostRequest.id.in_(free)))


def _forget_gone_storages(_: Settings) -> None:
    with transaction() as session:
        storages.forget_gone(session)


def _go_on_with_all_returned(ours: Settings) -> None:
    isolation.each("go on", Job, _waiting_for_a_host(ours), go_on_with_returned)


def _admit(ours: Settings) -> None:
    with transaction() as session:
        troubled = admit(session, ours)
    for job_id, error in troubled.items():
        isolation.set_aside(admission.DECIDING, Job, job_id, error)


def _look(ours: Settings) -> Any:
    """Which kinds of work there are now, each true or false."""
    with transaction() as session:
        return session.execute(_kinds_of_work(ours.republish_after)).one()


@cache
def _kinds_of_work(republish_after: timedelta) -> Select[*tuple[Any, ...]]:
    """Made once: to make this statement costs several times what Postgres needs to answer it."""
    what: dict[str, ColumnElement[bool]] = {
        "said": exists().where(Said.id.is_not(None)),
        "overdue": exists().where(Step.state.in_(CLAIMED), claims.overdue()),
        "old_questions": exists().where(_old()),
        "gone_storages": exists().where(storages.gone()),
        "stopped": exists().where(Job.state == JobState.NEEDS_OPERATOR),
        "waiting": exists().where(admission.waits()),
        "in_windows": exists().where(windows.open_ended()),
        "due": _due(republish_after).exists(),
        "drains": exists().where(drains.unfinished()),
        "rolls": exists().where(roll_reconciler.unfinished()),
        "notices": exists().where(unanswered()),
        "deliveries": exists().where(webhooks.due()),
        "changed_keys": exists().where(Host.public_key != Host.trusted_key),
    }
    return select(*(truth.label(name) for name, truth in what.items()))


def _old() -> ColumnElement[bool]:
    return HostRequest.created_at < func.clock_timestamp() - QUESTIONS_KEPT


@cache
def _due(republish_after: timedelta) -> Select[int]:
    """Jobs with a step to publish or a rollback to start."""
    claimed = aliased(Step)
    stale = Step.enqueued_at < func.clock_timestamp() - republish_after
    return (
        select(Job.id)
        .join(Step)
        .where(
            Job.state.in_(GOING_ON),
            Step.next_at <= func.clock_timestamp(),
            Step.enqueued_at.is_(None) | stale,
            ~exists().where(claimed.job_id == Job.id, claimed.state.in_(CLAIMED)),
        )
    )


def _advance_all(ours: Settings) -> None:
    with transaction() as session:
        due = sorted(set(session.scalars(_due(ours.republish_after))))
    fault = _broker_fault() if due else None  # asked with no transaction open: with a frozen Redis it takes seconds
    isolation.each("advance", Job, due, lambda job_id: _advance(job_id, ours, fault))


def _advance(job_id: int, ours: Settings, broker_fault: str | None) -> None:
    with transaction() as session:
        job = claims.lock(session, job_id, wait=False)
        if job is not None:
            with logs.about(guest=job.guest, **logs.trace_of(job.traceparent)):
                advance(session, job, ours, broker_fault)
            isolation.forget_trouble(job)


def _broker_fault() -> str | None:
    """Why no message can be published now, if so."""
    try:
        health.check_broker()
    except (BrokerUnreachable, RedisError, OSError) as error:
        return _plainly(error)
    return None


def advance(session: Session, job: Job, ours: Settings, broker_fault: str | None = None) -> None:
    """Start a job's rollback, publish its next step, or give up on a host that it waits for. Hold its row's lock.

    With a `broker_fault` a step that is due is not published, and the job's `wait_reason` is the fault.
    """
    if job.state is JobState.RUNNING and job.cancel_requested and job.committed_at is None and job.idle:
        claims.begin_rollback(session, job, "cancelled on request", actor=Actor.CONTROLLER, by=ME)
    step = job.next_step
    if step is None:
        claims.end_if_nothing_is_left(session, job, actor=Actor.CONTROLLER, by=ME)
        return
    found = _seen(session, step, ours)
    if found.silent:
        give_up_waiting(session, job, step)
    elif found.ready and _keys_are_known(session, job):
        _publish(session, job, step, broker_fault)


def _keys_are_known(session: Session, job: Job) -> bool:
    """A plan that Drover 0.1 made has no keys of the two hosts; they are added once both have shown theirs."""
    if job.plan is None or job.plan.source_key is not None:
        return True
    try:
        added = host_keys.of_plan(session, job.source, job.destination)
    except PreconditionFailed as error:
        job.wait_reason = str(error)
        return False
    job.plan, job.wait_reason = job.plan.model_copy(update=added), None
    return True


def _seen(session: Session, step: Step, ours: Settings) -> Any:
    """Whether a step is `ready` (due, not published lately, its host there), and its host `silent` for too long."""
    fresh = Step.enqueued_at >= func.clock_timestamp() - ours.republish_after
    ready = (Step.next_at <= func.clock_timestamp()) & (Step.enqueued_at.is_(None) | ~fresh) & alive(ours)
    silent = Host.heartbeat_at < func.clock_timestamp() - fleet.value(FleetLimits.host_patience)
    return session.execute(
        select(ready.label("ready"), silent.label("silent"))
        .join_from(Step, Host, Host.name == Step.host)
        .where(Step.job_id == step.job_id, Step.seq == step.seq)
    ).one()


def give_up_waiting(session: Session, job: Job, step: Step) -> None:
    """The host of a job's next step has been silent for too long. Hold the job's lock.

    Before a cutover was begun it is rolled back: the guest stays on the source. Later the destination may run
    it, and rolling back needs the silent host as well: an operator must state what has become of it, because
    unreachable is not dead.
    """
    patience = fleet.limits(session).host_patience
    silent = f"{step.host} has sent no heartbeat for {words.duration(patience.total_seconds())}"
    if job.state is JobState.RUNNING and job.cutover_begun_at is None and job.committed_at is None:
        claims.begin_rollback(session, job, silent, actor=Actor.CONTROLLER, by=ME)
    else:
        owner = Side.DESTINATION if step.side is Side.SOURCE else Side.SOURCE
        choices = _choices(job, step.host, owner)
        claims.ask_operator(session, job, f"{silent}: {choices}", actor=Actor.CONTROLLER, by=ME)


def _waiting_for_a_host(ours: Settings) -> list[int]:
    """Jobs that ask for an operator although no step failed, and whose hosts are all there again."""
    failed = exists().where(Step.job_id == Job.id, Step.state == StepState.FAILED)
    silent = exists().where(Host.name.in_([Job.source, Job.destination]), ~alive(ours))
    with transaction() as session:
        waiting = select(Job.id).where(Job.state == JobState.NEEDS_OPERATOR, ~failed, ~silent)
        return list(session.scalars(waiting))


def go_on_with_returned(job_id: int) -> None:
    """Resume a job that stopped only because a host was silent, once it is back: each step looks before it acts."""
    with transaction() as session:
        job = claims.lock(session, job_id, wait=False)
        if job is None or job.state is not JobState.NEEDS_OPERATOR:
            return
        if not any(step.state is StepState.FAILED for step in job.steps):  # it may have failed since it was found
            why = f"{job.source} and {job.destination} both send heartbeats again"
            go_on(session, job, why, actor=Actor.CONTROLLER, by=ME)


def _choices(job: Job, silent: str, owner: Side) -> str:
    """The operator's choices: wait, or a command."""
    lost = ""
    if owner is Side.DESTINATION and job.committed_at is None and job.cutover_begun_at is not None:
        lost = f" (it may have run on there since {job.cutover_begun_at:%H:%M:%S %Z}: what it did since is lost then)"
    if owner is Side.SOURCE and job.committed_at is not None:
        lost = (
            f" ({job.guest} went there at {job.committed_at:%H:%M:%S %Z}: what it did on {silent} since is lost then)"
        )
    return (
        f"the job goes on by itself once it is back; if it is off for good and {job.guest} is not running there, "
        f"`drover job resolve {job.id} --owner {owner} --fenced {silent}`{lost}"
    )


def _plainly(error: Exception) -> str:
    return str(error).rpartition("caused error: ")[2] or type(error).__name__  # of a pipeline's command


def _unpublished(job: Job) -> bool:
    return job.wait_reason is not None and job.wait_reason.startswith(UNPUBLISHED)


def _publish(session: Session, job: Job, step: Step, broker_fault: str | None) -> None:
    """Send the chain of what remains, then record that it was sent: so it is sent at least once.

    Tried once, because the job's lock is held while this waits for Redis; the next look tries again.
    """
    chain = remaining_chain(job)
    if chain is None:
        return
    begun = time.monotonic()
    try:
        if broker_fault is not None:
            raise BrokerUnreachable(broker_fault)
        chain.apply_async(retry_policy={"max_retries": 0})
    except BrokerUnreachable as error:
        why = f"{UNPUBLISHED}: {_plainly(error)} (`drover doctor` says what to mend)"
        if not _unpublished(job):
            record_event(
                session,
                job.id,
                by=ME,
                action=EventAction.HELD_UP,
                sentence=f"{step.name} waits, the guest runs on: {why}",
            )
        job.wait_reason = why
        return
    if _unpublished(job):
        record_event(
            session, job.id, by=ME, action=EventAction.GOES_ON, sentence="Redis takes messages again: the move goes on"
        )
        job.wait_reason = None
    step.enqueued_at = func.clock_timestamp()
    seconds = round(time.monotonic() - begun, 3)
    log.info("publishes %s for %s, and all that follows", step.name, step.host, extra={"seconds": seconds})
