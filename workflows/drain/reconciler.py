"""What the controller does about drains. It reads rows only, so every tick may be in another process.

`job_sync` reads the results of the moves, `dispatcher` chooses the next guests. A guest's job is submitted by a task
of its own, because hosts are asked then; a lost message is sent again.
"""

import logging
from dataclasses import replace

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from drover import words
from drover.broker.app import CONTROL_QUEUE, app
from drover.settings import Settings
from models.base import now
from models.database import NO_KEY_UPDATE, transaction
from models.documents import Recurrence
from models.drain import UNDER_WAY, Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.guest import Guest
from models.host import Host, HostState
from models.job import Job, JobState
from workflows import isolation, permissions, schedule
from workflows.drain import commands, dispatcher, job_sync
from workflows.drain.commands import cancel_moves
from workflows.drain.planner import guests_of
from workflows.selectors import Selector
from workflows.submit_options import SubmitOptions

log = logging.getLogger(__name__)


def tick(ours: Settings) -> None:
    """Look at every drain that has not ended, once."""
    with transaction() as session:
        ids = session.scalars(select(Drain.id).where(unfinished()).order_by(Drain.priority.desc(), Drain.id)).all()
    isolation.each("carry on", Drain, ids, lambda drain_id: _carry_on(drain_id, ours))


def _carry_on(drain_id: int, ours: Settings) -> None:
    with transaction() as session:
        drain = session.get(Drain, drain_id, with_for_update={"skip_locked": True})
        chosen = advance(session, drain, ours) if drain is not None else []
        if drain is not None:
            isolation.forget_trouble(drain)
    for guest in chosen:  # after the commit: the task must find the row
        log.info("dispatches the submission of a move", extra={"guest": guest})
        app.send_task("drover.drain.move", kwargs={"drain_id": drain_id, "guest": guest}, queue=CONTROL_QUEUE)


def unfinished() -> ColumnElement[bool]:
    """Drains that have not ended."""
    return Drain.state.in_([DrainState.QUEUED, *UNDER_WAY])


def advance(session: Session, drain: Drain, ours: Settings) -> list[str]:
    """Advance one drain; returns the guests whose jobs are to be submitted now."""
    if drain.state.ended or (drain.state is DrainState.QUEUED and not _begin(session, drain)):
        return []
    job_sync.follow(session, drain, ours)
    if drain.state is DrainState.CANCELLING:
        cancel_moves(session, drain)
        _end_if_over(session, drain)
        return []
    _take_up(session, drain)
    if drain.state is DrainState.PAUSED:
        return []
    chosen = dispatcher.choose(session, drain, ours)
    _end_if_over(session, drain)
    return chosen


def _begin(session: Session, drain: Drain) -> bool:
    """Begin a drain whose time has come, unless another drain of its host is under way."""
    other = commands.under_way(session, drain.host)
    early = schedule.obstacle(now(session), 0, not_before=drain.not_before, window=drain.window)
    if withdrawn := permissions.withdrawn_from_drain(session, drain):
        drain.error = withdrawn
        drain.move(session, DrainState.CANCELLED)
    elif early is not None and not drain.seed:
        drain.wait_reason = early.of("drain", drain.id)
    elif other is not None:
        drain.wait_reason = f"drain {other.id} of {drain.host} is under way: `drover drain cancel {other.id}` ends it"
    elif held := commands.held(session, drain):
        drain.wait_reason = held
    else:
        commands.begin(session, drain)
    return drain.state is DrainState.RUNNING


def _take_up(session: Session, drain: Drain) -> None:
    """Add guests that have no row yet: all of a drain that was planned ahead, else those that arrived late."""
    known = {row.guest for row in drain.guests}
    for guest in guests_of(session, drain.kind, drain.host, Selector.read(drain.selector)):
        if guest.name not in known:
            drain.guests.append(_arrived(drain, guest))
    session.flush()


def _arrived(drain: Drain, guest: Guest) -> DrainGuest:
    row = {"guest": guest.name, "position": len(drain.guests) + 1, "source": guest.host}
    if drain.follows_plan:
        return DrainGuest(**row, state=GuestState.SKIPPED, reason="it is not in the plan that the drain follows")
    return DrainGuest(**row)


def _end_if_over(session: Session, drain: Drain) -> None:
    """Nothing waits, and nothing moves but what an operator must decide."""
    if _is_busy(session, drain):
        return
    for row in drain.guests:
        if row.state in {GuestState.MOVING, GuestState.WAITING}:
            row.move(
                GuestState.SKIPPED, "the drain was cancelled" if drain.state is DrainState.CANCELLING else row.reason
            )
    left = [row for row in drain.guests if row.state is GuestState.SKIPPED]
    if left:
        drain.error = f"{words.count(len(left), 'guest is', 'guests are')} left, of {len(drain.guests)}: " + "; ".join(
            f"{row.guest}: {row.reason}" for row in left
        )
    elif drain.kind is DrainKind.DRAIN and drain.state is DrainState.RUNNING and _is_empty(session, drain.host):
        session.get_one(Host, drain.host, with_for_update=NO_KEY_UPDATE).state = HostState.MAINTENANCE
    if drain.state is DrainState.CANCELLING:
        drain.move(session, DrainState.CANCELLED)
        return
    drain.move(session, DrainState.INCOMPLETE if left else DrainState.DONE)
    if drain.recurrence is not None:
        _queue_next(session, drain, drain.recurrence)


def _is_empty(session: Session, host: str) -> bool:
    """A drain of some guests leaves the others."""
    return session.scalar(select(Guest.name).where(Guest.host == host).limit(1)) is None


def _queue_next(session: Session, drain: Drain, repeated: Recurrence) -> None:
    """Queue the same drain for the next time of its recurrence; its guests are added when it begins.

    A resumed drain ends twice: its recurrence is not queued again.
    """
    queued = select(Drain).where(Drain.host == drain.host, Drain.kind == drain.kind, Drain.state == DrainState.QUEUED)
    if any(other.recurrence == repeated for other in session.scalars(queued)):
        return
    terms = replace(SubmitOptions.of(drain), not_before=schedule.following(repeated, now(session)))
    wishes = ("kind", "host", "submitted_by", "submitted_with", "allowed_hosts", "selector", "options", "recurrence")
    session.add(Drain(**vars(terms), **{name: getattr(drain, name) for name in wishes}))


def _is_busy(session: Session, drain: Drain) -> bool:
    if job_sync.moves_under_way(session, drain):
        return True
    if drain.state is DrainState.CANCELLING:
        return False
    waits = any(row.state is GuestState.WAITING for row in drain.guests)
    return waits or (drain.kind is DrainKind.DRAIN and _others_come_or_go(session, drain))


def _others_come_or_go(session: Session, drain: Drain) -> bool:
    """Guests without a row in this drain are on the host, or on their way from or to it."""
    here = or_(Job.source == drain.host, Job.destination == drain.host)
    moving = select(Job.id).where(here, Job.state.in_([JobState.RUNNING, JobState.ROLLING_BACK])).limit(1)
    known = [row.guest for row in drain.guests]
    meant = Selector.read(drain.selector).condition(Guest.labels)
    arrived = select(Guest.name).where(Guest.host == drain.host, Guest.name.not_in(known), meant).limit(1)
    return any(session.scalar(query) is not None for query in (moving, arrived))
