"""Requests of operators and schedulers: submit, pause, resume or cancel a drain or a return.

Each writes rows and wakes the controller.
"""

import logging

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from drover.settings import settings
from models import decision_log, refusal
from models.controller import wake
from models.database import NO_KEY_UPDATE, transaction
from models.drain import UNDER_WAY, Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.host import Host, HostState
from models.job import Job, unfinished
from models.roll import taken_out_by
from workflows import capacity, not_there, receivers
from workflows.drain import planner
from workflows.drain.planner import DrainRequest, Forecast, guests_of
from workflows.migration import claims, jobs
from workflows.migration.jobs import Changes
from workflows.selectors import Selector
from workflows.submissions import is_text

log = logging.getLogger(__name__)


def submit(
    request: DrainRequest,
    *,
    forecast: Forecast | None = None,
    idempotency_key: str | None = None,
    by: str = "command line",
    token: int | None = None,
) -> Drain:
    """Queue a drain; the controller begins it when its time has come.

    With an idempotency key that was used before, returns the earlier drain. Without a key, returns the one that does
    this already. The forecast is followed while it holds.

    Raises:
        PreconditionFailed: a host is unknown, or there is nothing to bring home; nothing was changed.
    """
    try:
        with transaction() as session:
            earlier = _same(session, idempotency_key, request)
            if earlier is None:
                earlier = queue(session, request, forecast, idempotency_key, by, token)
                wake(session)
            return earlier
    except (IntegrityError, PreconditionFailed) as error:  # another came first, perhaps with this key
        if earlier := _submitted(request, idempotency_key):
            return earlier
        if isinstance(error, PreconditionFailed):
            raise
        raise PreconditionFailed(f"a drain of {request.host} cannot be submitted now: try again") from error


def submitted_or_forecast(
    request: DrainRequest, idempotency_key: str | None, *, tried: bool = False
) -> tuple[Drain | None, Forecast | None]:
    """The drain that was submitted with this key before, or else what it would do, on request with trials.

    Raises:
        PreconditionFailed: that was another one, or it cannot be done.
    """
    if (not tried or idempotency_key) and (earlier := _submitted(request, idempotency_key)):
        return earlier, None
    try:
        receivers.check(request.terms.webhook)
        return None, planner.forecast(request, tried=tried)
    except PreconditionFailed:  # the conflict may be with this very drain, submitted at the same moment
        if earlier := _submitted(request, idempotency_key):
            return earlier, None
        raise


def _submitted(request: DrainRequest, idempotency_key: str | None) -> Drain | None:
    with transaction() as session:
        return _same(session, idempotency_key, request)


def _same(session: Session, key: str | None, request: DrainRequest) -> Drain | None:
    if key is None:
        return _doing_so_already(session, request)
    drain = session.scalar(select(Drain).where(Drain.idempotency_key == key))
    if drain is not None and drain.refused:
        drain.idempotency_key = None
        return None
    if drain is not None and (drain.kind, drain.host) != (request.kind, request.host):
        raise PreconditionFailed(
            f"the key {key!r} was used for drain {drain.id}, a {drain.kind} of {drain.host}: use another key"
        )
    return drain


def _doing_so_already(session: Session, request: DrainRequest) -> Drain | None:
    """Whoever asks for the same twice gets the first one; what is for later is another one."""
    if request.terms.not_before or request.recurrence:
        return None
    session.get(Host, request.host, with_for_update=NO_KEY_UPDATE)  # one after the other
    going = Drain.state.in_([DrainState.QUEUED, DrainState.RUNNING, DrainState.PAUSED])
    there = select(Drain).where(Drain.kind == request.kind, Drain.host == request.host, going).order_by(Drain.id)
    return next((drain for drain in session.scalars(there) if _does_so(drain, request)), None)


def _does_so(drain: Drain, request: DrainRequest) -> bool:
    if drain.state is DrainState.QUEUED and (drain.not_before, drain.window) != (None, request.terms.window):
        return False
    return drain.selector == request.selector


def queue(
    session: Session,
    request: DrainRequest,
    forecast: Forecast | None = None,
    key: str | None = None,
    by: str = "command line",
    token: int | None = None,
) -> Drain:
    """Insert the row of a drain.

    Raises:
        PreconditionFailed: a host is unknown, or there is nothing to bring home.
    """
    planner.check_hosts(session, request)
    selector = Selector.read(request.selector)
    if (
        request.kind is DrainKind.RETURN
        and not request.terms.not_before
        and not guests_of(session, request.kind, request.host, selector)
    ):
        which = f" and is selected by {request.selector!r}" if request.selector else ""
        raise PreconditionFailed(
            f"no guest that was drained from {request.host}{which} is away: `drover host uncordon` opens it"
        )
    terms = request.terms
    if forecast is not None and terms.window and forecast.plan.left and not forecast.plan.placements:
        reasons = "; ".join(f"{guest}: {why}" for guest, why in forecast.plan.left.items())
        raise PreconditionFailed(f"nothing of {request.host} could be moved: {reasons}")
    drain = Drain(
        kind=request.kind,
        host=request.host,
        idempotency_key=key,
        submitted_by=by,
        submitted_with=token,
        allowed_hosts=request.where,
        selector=request.selector,
        options=request.options,
        **vars(terms),
        recurrence=request.recurrence,
    )
    if forecast is not None:
        at_once = not (terms.not_before or terms.window or held(session, drain))
        drain.guests = _planned(forecast, at_once=at_once)
    session.add(drain)
    if key is not None:
        refusal.forget(session, "drain", key)
    session.flush()
    decision_log.add(session, f"a {drain.kind} of {drain.host} was submitted by {by}", drain=drain.id)
    return drain


def record_refusal(kind: DrainKind, host: object, idempotency_key: str, why: str, webhook: object = None) -> None:
    """Record the refusal of a submission whose sender waits for no answer.

    It is kept as a cancelled drain, or apart from the drains where the host is unknown. Any content may arrive.
    """
    told = receivers.told(webhook)
    try:
        with transaction() as session:
            earlier = session.scalar(select(Drain).where(Drain.idempotency_key == idempotency_key).with_for_update())
            if earlier is not None and not earlier.refused:
                return  # the earlier drain is the record
            if earlier is not None:
                earlier.idempotency_key = None
                session.flush()
            if not is_text(host) or session.get(Host, host) is None:
                refusal.keep(session, "drain", idempotency_key, why)
                return
            refusal.forget(session, "drain", idempotency_key)
            drain = Drain(
                kind=kind,
                host=host,
                state=DrainState.CANCELLED,
                idempotency_key=idempotency_key,
                error=why,
                webhook=told,
                finished_at=func.clock_timestamp(),
            )
            session.add(drain)
            session.flush()
            drain.announce(session)
    except IntegrityError as error:  # the same key at the same moment
        log.warning("the refusal of the submission %r cannot be kept, nothing was changed: %s", idempotency_key, error)


def _planned(forecast: Forecast, *, at_once: bool) -> list[DrainGuest]:
    """The plan as rows. What cannot be moved now may be movable by the time of a drain that is planned ahead."""
    rows = [
        DrainGuest(
            guest=placement.candidate.name,
            source=placement.candidate.source,
            destination=placement.destination,
            estimate_s=forecast.move_s(placement),
        )
        for placement in forecast.plan.placements
    ]
    if at_once:
        sources = forecast.sources
        rows += [
            DrainGuest(guest=name, source=sources[name], state=GuestState.SKIPPED, reason=why)
            for name, why in forecast.plan.left.items()
        ]
    for position, row in enumerate(rows, start=1):
        row.position = position
    return rows


def pause(drain_id: int) -> Drain:
    """Begin no other move; those under way go on.

    Raises:
        PreconditionFailed: there is no such drain or it does not run.
    """
    with transaction() as session:
        drain = existing(session, drain_id)
        if drain.state is not DrainState.RUNNING:
            raise PreconditionFailed(f"drain {drain_id} is {drain.state}: only one that runs can be paused")
        drain.move(session, DrainState.PAUSED)
        return drain


def change(drain_id: int, changes: Changes, by: str = "command line") -> Drain:
    """Change how a drain is done, and its moves with it that have not ended.

    Raises:
        PreconditionFailed: there is no such drain, or it has ended.
    """
    with transaction() as session:
        drain = existing(session, drain_id)
        if drain.state.ended:
            raise PreconditionFailed(f"drain {drain_id} has ended, it is {drain.state}: there is nothing to change")
        changes.apply(drain)
        decision_log.add(session, f"an operator changed it: {changes}", drain=drain_id)
        moves = select(Job.id).where(Job.drain_id == drain_id, unfinished()).order_by(Job.id)
        for number in session.scalars(moves).all():
            job = claims.lock(session, number)
            if job is not None and not job.state.finished:
                jobs.change_locked(session, job, changes, by)
        wake(session)
        return drain


def release(drain_id: int, by: str = "command line") -> Drain:
    """Let the RAM of all moves of a drain follow that was submitted with a hold.

    Raises:
        PreconditionFailed: there is no such drain, it has ended, or nothing of it is held.
    """
    with transaction() as session:
        drain = existing(session, drain_id)
        numbers = [row.job_id for row in drain.guests if row.job_id is not None]
        held = [
            job
            for number in sorted(numbers)
            if (job := claims.lock(session, number)) is not None and job.hold and not job.state.settled
        ]
        if drain.state.ended or not (held or drain.hold):
            raise PreconditionFailed(f"drain {drain_id} is {drain.state} and not held: there is nothing to release")
        drain.hold = False  # of the moves that it still begins
        for job in held:
            jobs.let_ram_follow(session, job, by)
        wake(session)
        return drain


def resume(drain_id: int, token: int | None = None) -> Drain:
    """Go on after a pause, or try the guests again that an ended drain has skipped. With the token of whoever asks.

    Raises:
        PreconditionFailed: there is no such drain, or it neither pauses nor has left anything.
    """
    with transaction() as session:
        drain = existing(session, drain_id)
        go_on(session, drain)
        drain.submitted_with = token
        return drain


def go_on(session: Session, drain: Drain) -> None:
    """See `resume`. Hold the row's lock.

    Raises:
        PreconditionFailed: it neither pauses nor has left anything, or another drain of its host is under way.
    """
    if drain.state not in {DrainState.PAUSED, DrainState.INCOMPLETE}:
        raise PreconditionFailed(
            f"drain {drain.id} is {drain.state}: only one that is paused or incomplete can be resumed"
        )
    other = under_way(session, drain.host)
    if other is not None and other.id != drain.id:
        raise PreconditionFailed(f"drain {other.id} of {drain.host} is under way: `drover drain watch {other.id}`")
    if held_by := held(session, drain):
        raise PreconditionFailed(held_by)
    try_again(drain)
    begin(session, drain)
    drain.error = None
    wake(session)


def held(session: Session, drain: Drain) -> str | None:
    """Why no guest may come home to the host of a return now; None if they may, and for a drain."""
    if drain.kind is not DrainKind.RETURN:
        return None
    room = capacity.rooms(session, settings())[drain.host]
    return taken_out_by(session, drain.host) or (room.silence if room.silent else None)


def begin(session: Session, drain: Drain) -> None:
    """Let it run: a host that is emptied takes no guest, one that is filled again does."""
    host = session.get_one(Host, drain.host, with_for_update=NO_KEY_UPDATE)
    if drain.kind is DrainKind.RETURN:
        host.state = HostState.ACTIVE
    elif host.state is HostState.ACTIVE:
        host.state = HostState.CORDONED
    drain.move(session, DrainState.RUNNING)


def try_again(drain: Drain) -> None:
    """Let skipped guests wait for their turn again; former refusals no longer count."""
    for row in drain.guests:
        left_by_plan = drain.follows_plan and row.planned is None
        if row.state is GuestState.SKIPPED and not left_by_plan:
            row.move(GuestState.WAITING)
            row.refused_by = {}


def cancel(drain_id: int) -> Drain:
    """End a drain: its moves under way are rolled back, guests that have moved stay where they are.

    Raises:
        PreconditionFailed: there is no such drain or it has ended.
    """
    with transaction() as session:
        drain = existing(session, drain_id)
        if drain.state.ended:
            raise PreconditionFailed(f"drain {drain_id} has ended: it is {drain.state}")
        end(session, drain)
        return drain


def end(session: Session, drain: Drain) -> None:
    """See `cancel`; one that is being ended already goes on with that. Hold the row's lock."""
    if drain.state is DrainState.QUEUED:
        drain.move(session, DrainState.CANCELLED)
    elif drain.state is not DrainState.CANCELLING:
        drain.move(session, DrainState.CANCELLING)
    wake(session)


def cancel_moves(session: Session, drain: Drain) -> None:
    """Have every move rolled back that is not past the point of no return; repeated until none is under way."""
    for row in drain.guests:
        job = claims.lock(session, row.job_id, wait=False) if row.job_id and row.state is GuestState.MOVING else None
        if job is not None and not job.state.settled and not job.cancel_requested and job.committed_at is None:
            jobs.request_end(session, job, by=f"drain {drain.id}")


def existing(session: Session, drain_id: int) -> Drain:
    """The drain with its row locked.

    Raises:
        PreconditionFailed: there is none.
    """
    drain = session.get(Drain, drain_id, with_for_update=True)
    if drain is None:
        raise not_there.drain(drain_id)
    return drain


def under_way(session: Session, host: str) -> Drain | None:
    """The drain that is under way on this host."""
    return session.scalar(select(Drain).where(Drain.host == host, Drain.state.in_(UNDER_WAY)))
