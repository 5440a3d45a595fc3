"""What the controller does about rolls. It reads rows only, so every look may be in another process.

A paused roll is not looked at: what it began ends by itself, and is found when it is resumed. A failure on one host
pauses the roll before anything else of it begins.
"""

from collections.abc import Callable

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from drover.settings import Settings
from drover.words import count, duration
from models.base import now
from models.database import NO_KEY_UPDATE
from models.drain import Drain, DrainKind, DrainState, GuestState
from models.host import Host, HostState
from models.roll import HookRun, Roll, RollHost, RollHostState, RollState
from workflows import capacity, permissions, wait_reasons
from workflows.drain import commands as drains
from workflows.drain.planner import DrainRequest, guests_of
from workflows.roll import health, hooks

LOOKED_AT = (RollState.RUNNING, RollState.CANCELLING)


class Failed(Exception):
    """What has failed on a host, as a sentence: the roll pauses."""


def unfinished() -> ColumnElement[bool]:
    """Rolls that are to be looked at."""
    return Roll.state.in_(LOOKED_AT)


def advance(session: Session, roll: Roll, ours: Settings) -> list[int]:
    """Carry one roll on. Hold its row's lock. Returns the runs of hooks for which a process is to be started now."""
    if roll.state is RollState.CANCELLING:
        _wind_up(session, roll)
        return []
    if roll.state is not RollState.RUNNING:
        return []
    asked: list[int] = []
    if withdrawn := permissions.withdrawn_from_roll(session, roll):
        _pause(session, roll, withdrawn)
        return asked
    for row in roll.hosts:
        try:
            asked += _further(session, row, ours)
        except (Failed, PreconditionFailed) as failure:
            _pause_at(session, row, str(failure))
            return asked
    if fault := _begin_next(session, roll, ours):
        _pause_at(session, *fault)
    elif all(row.state.ended for row in roll.hosts):
        roll.move(session, RollState.DONE)
    else:
        roll.wait_reason = wait_reasons.of_hosts(roll, {})
    return asked


def _pause(session: Session, roll: Roll, why: str) -> None:
    roll.error = why
    roll.move(session, RollState.PAUSED)


def _pause_at(session: Session, row: RollHost, why: str) -> None:
    row.error = why
    _pause(session, row.roll, f"{row.host}: {why}")


def _further(session: Session, row: RollHost, ours: Settings) -> list[int]:
    """Carry one host on, if it is out.

    Raises:
        Failed: its drain, its hook, its recovery or its return has failed.
    """
    if row.state is RollHostState.IN_HOOK:
        return _in_hook(session, row)
    steps: dict[RollHostState, Callable[[Session, RollHost, Settings], None]] = {
        RollHostState.DRAINING: _draining,
        RollHostState.COMING_BACK: _coming_back,
        RollHostState.RETURNING: _returning,
    }
    if row.state in steps:
        steps[row.state](session, row, ours)
    return []


def _draining(session: Session, row: RollHost, _: Settings) -> None:
    roll = row.roll
    if row.drain_id is None:
        wanted = DrainRequest(kind=DrainKind.DRAIN, host=row.host, where=roll.allowed_hosts, options=roll.options)
        row.drain_id = _queued(session, roll, wanted)
    drain = session.get_one(Drain, row.drain_id)
    if not _is_done(drain):
        row.reason = _moves(drain)
    elif health.was_looked_at(session, row.host, drain):
        row.move(RollHostState.IN_HOOK)
    else:
        row.reason = f"{row.host} is empty; its worker has yet to say that no other QEMU runs there"


def _in_hook(session: Session, row: RollHost) -> list[int]:
    run = session.get(HookRun, row.hook_run_id) if row.hook_run_id is not None else None
    if run is None or hooks.was_not_taken(session, run):
        if obstacle := health.in_the_way(session, row.host):
            raise Failed(obstacle)
        row.before = health.before(session.get_one(Host, row.host))
        run = hooks.ask(session, row)
        row.reason = hooks.progress(session, run)
        return [run.id]
    if failure := hooks.failure(session, run):
        raise Failed(failure)
    if run.ended_at is None:
        row.reason = hooks.progress(session, run)
    else:
        row.move(RollHostState.COMING_BACK)
    return []


def _coming_back(session: Session, row: RollHost, ours: Settings) -> None:
    obstacle = health.obstacle(session, row, ours)
    if obstacle is None:
        row.move(RollHostState.RETURNING)
    elif now(session) > row.since + row.roll.back_within:
        raise Failed(f"it was not healthy within {duration(row.roll.back_within.total_seconds())}: {obstacle}")
    else:
        row.reason = obstacle


def _returning(session: Session, row: RollHost, _: Settings) -> None:
    if row.return_id is None and not guests_of(session, DrainKind.RETURN, row.host):
        session.get_one(Host, row.host, with_for_update=NO_KEY_UPDATE).state = HostState.ACTIVE
        row.move(RollHostState.DONE, "no guest of it is away")
        return
    if row.return_id is None:
        wanted = DrainRequest(kind=DrainKind.RETURN, host=row.host, options=row.roll.options)
        row.return_id = _queued(session, row.roll, wanted)
    drain = session.get_one(Drain, row.return_id)
    if _is_done(drain):
        row.move(RollHostState.DONE)
    else:
        row.reason = _moves(drain)


def _queued(session: Session, roll: Roll, wanted: DrainRequest) -> int:
    return drains.queue(session, wanted, by=f"roll {roll.id}", token=roll.submitted_with).id


def _is_done(drain: Drain) -> bool:
    """Raises Failed when it has ended in another way."""
    if drain.state is DrainState.INCOMPLETE:
        raise Failed(f"drain {drain.id} ({drain.kind}) is incomplete: {drain.error}")
    if drain.state is DrainState.CANCELLED:
        raise Failed(f"drain {drain.id} ({drain.kind}) was cancelled")
    return drain.state is DrainState.DONE


def _moves(drain: Drain) -> str:
    moved = sum(row.state is GuestState.MOVED for row in drain.guests)
    return f"{drain.kind} {drain.id} is {drain.state}, {moved} of {count(len(drain.guests), 'guest')} moved"


def _begin_next(session: Session, roll: Roll, ours: Settings) -> tuple[RollHost, str] | None:
    """Take hosts out as long as fewer are out than may be. One that is away for another reason counts as well.

    Returns a host whose hook cannot be run, and why.
    """
    waiting = [row for row in roll.hosts if row.state is RollHostState.WAITING]
    rooms = capacity.rooms(session, ours)
    away = {row.host: why for row in roll.hosts if not row.state.out and (why := health.unavailable(rooms[row.host]))}
    out = [row.host for row in roll.hosts if row.state.out] + list(away)
    for row in waiting:
        if row.host in away:
            row.reason = away[row.host]
        elif len(out) >= roll.max_unavailable:
            most = count(roll.max_unavailable, "host")
            more = f"`drover roll set {roll.id} --max-unavailable {len(out) + 1}` lets another be out"
            row.reason = f"it waits for {', '.join(out)}: no more than {most} may be out at a time; {more}"
        elif fault := _hook_fault(roll, ours):
            return row, fault
        else:
            row.move(RollHostState.DRAINING)
            out.append(row.host)
    return None


def _hook_fault(roll: Roll, ours: Settings) -> str | None:
    """Found before a host is emptied for nothing."""
    try:
        hooks.program(roll.hook, ours)
    except PreconditionFailed as error:
        return str(error)
    return None


def _wind_up(session: Session, roll: Roll) -> None:
    """End what a cancelled roll has under way; repeated until nothing is."""
    for row in roll.hosts:
        if not row.state.ended and not _goes_on(session, row):
            row.move(RollHostState.LEFT, _left_as(session, row))
    if all(row.state.ended for row in roll.hosts):
        roll.move(session, RollState.CANCELLED)
    else:
        roll.wait_reason = wait_reasons.of_hosts(roll, {})


def _goes_on(session: Session, row: RollHost) -> bool:
    """Something of the roll is still under way there. A drain is ended; a hook is not, it may be in the middle."""
    if row.state is RollHostState.IN_HOOK:
        run = session.get(HookRun, row.hook_run_id) if row.hook_run_id is not None else None
        if run is None or run.ended_at is not None or hooks.was_not_taken(session, run) or hooks.is_lost(session, run):
            return False
        row.reason = f"{hooks.progress(session, run)}: the roll ends once that has ended, or was killed there"
        return True
    drain_id = {RollHostState.DRAINING: row.drain_id, RollHostState.RETURNING: row.return_id}.get(row.state)
    drain = session.get(Drain, drain_id, with_for_update=True) if drain_id is not None else None
    if drain is None or drain.state.ended:
        return False
    drains.end(session, drain)
    row.reason = _moves(drain)
    return not drain.state.ended


def _left_as(session: Session, row: RollHost) -> str:
    """What state the host is in, and what to do."""
    state = session.get_one(Host, row.host).state
    if state is HostState.ACTIVE:
        return "the roll was cancelled; the host takes guests"
    return (
        f"the roll was cancelled; the host is {'in maintenance' if state is HostState.MAINTENANCE else state}: `drover "
        f"return {row.host}` brings its guests home, `drover host uncordon {row.host}` opens it without them"
    )
