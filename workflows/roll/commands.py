"""Requests of operators: submit, pause, resume or cancel a roll. Each writes rows and wakes the controller."""

from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from models import decision_log
from models.base import now
from models.controller import wake
from models.database import transaction
from models.documents import AllowedHosts, Hook, MigrationOptions
from models.drain import Drain, DrainState
from models.host import Host
from models.roll import HookRun, Roll, RollHost, RollHostState, RollState
from workflows import hosts, not_there, receivers
from workflows.capacity import CLOSED
from workflows.drain import commands as drains
from workflows.drain.planner import check_choice, known
from workflows.roll import hooks
from workflows.selectors import Selector
from workflows.submissions import RollSubmission

ENDED = [state for state in RollState if state.ended]


@dataclass(frozen=True, kw_only=True)
class RollRequest:
    """What is asked of a roll."""

    hosts: tuple[str, ...]
    """In their turn."""
    hook: Hook
    max_unavailable: int = 1
    back_within: timedelta = timedelta(minutes=30)
    where: AllowedHosts = field(default_factory=AllowedHosts)
    options: MigrationOptions = field(default_factory=MigrationOptions)
    webhook: str | None = None

    @classmethod
    def of(cls, asked: RollSubmission) -> "RollRequest":
        """What a submission means.

        Raises:
            PreconditionFailed: the hook is not understood, or no host is meant.
        """
        return cls(
            hosts=_meant(asked.hosts, asked.selector),
            hook=Hook(argv=asked.argv(), timeout_s=asked.hook_timeout_s),
            max_unavailable=asked.max_unavailable,
            back_within=timedelta(seconds=asked.back_within_s),
            where=AllowedHosts(to=asked.to, exclude=asked.exclude),
            options=MigrationOptions().asking(
                max_downtime_ms=asked.max_downtime_ms, bandwidth_bytes_per_s=asked.bandwidth_bytes_per_s
            ),
            webhook=asked.webhook,
        )

    def check(self) -> None:
        """Refuse what makes no sense whatever the hosts are.

        Raises:
            PreconditionFailed: one sentence names it.
        """
        hooks.check_name(self.hook)
        twice = sorted({host for host in self.hosts if self.hosts.count(host) > 1})
        if not self.hosts:
            raise PreconditionFailed("no host is named: add `--host H`")
        if twice:
            raise PreconditionFailed(f"named more than once: {', '.join(twice)}")


def _meant(named: tuple[str, ...], selector: str | None) -> tuple[str, ...]:
    """The hosts that are named, or those that a selector means, by name."""
    if bool(named) == (selector is not None):
        raise PreconditionFailed(
            "name the hosts either by `--host H`, which may be repeated, or by their labels with `--hosts SELECTOR`"
        )
    if selector is None:
        return named
    with transaction() as session:
        wanted = hosts.selected(Selector.read(selector))
        found = tuple(session.scalars(select(Host.name).where(wanted).order_by(Host.name)))
    if not found:
        raise PreconditionFailed(
            f"no host has the labels {selector!r}: `drover host list` shows them; by their names hosts are given as "
            "`--host H`"
        )
    return found


def check(session: Session, request: RollRequest) -> None:
    """Refuse a roll that could not begin. The hosts' rows are locked, so that no other one takes them meanwhile.

    Raises:
        PreconditionFailed: a host is unknown, closed, or in another roll; or the request makes no sense.
    """
    request.check()
    receivers.check(request.webhook)
    known(session, [*request.where.to, *request.where.exclude])
    for name in sorted(request.hosts):
        check_choice(request.where, name)
        host = hosts.existing(session, name)
        if closed := CLOSED[host.state]:
            raise PreconditionFailed(f"{name} takes no guest, {closed}: `drover host uncordon {name}` or leave it out")
    busy = select(RollHost).join(Roll).where(Roll.state.not_in(ENDED), RollHost.host.in_(request.hosts)).limit(1)
    if (other := session.scalar(busy)) is not None:
        number = other.roll_id
        raise PreconditionFailed(f"roll {number} has {other.host} already: `drover roll show {number}`")


def submit(request: RollRequest, token: int | None = None) -> Roll:
    """Begin a roll; the controller carries it on.

    Raises:
        PreconditionFailed: see `check`; nothing was changed.
    """
    with transaction() as session:
        check(session, request)
        roll = Roll(
            max_unavailable=request.max_unavailable,
            hook=request.hook,
            back_within=request.back_within,
            allowed_hosts=request.where,
            submitted_with=token,
            options=request.options,
            webhook=request.webhook,
            hosts=[RollHost(host=host, position=turn) for turn, host in enumerate(request.hosts, start=1)],
        )
        session.add(roll)
        session.flush()
        decision_log.add(session, f"a roll through {', '.join(request.hosts)} was submitted", roll=roll.id)
        roll.announce(session, f"roll.{roll.state}")
        wake(session)
        return roll


def pause(roll_id: int) -> Roll:
    """Begin nothing more: no drain, no hook, no return. What was begun ends by itself.

    Raises:
        PreconditionFailed: there is no such roll or it does not run.
    """
    with transaction() as session:
        roll = existing(session, roll_id)
        if roll.state is not RollState.RUNNING:
            raise PreconditionFailed(f"roll {roll_id} is {roll.state}: only one that runs can be paused")
        roll.move(session, RollState.PAUSED)
        return roll


def resume(roll_id: int, token: int | None = None) -> Roll:
    """Go on after a pause, with the token of whoever asks. What has failed is tried again: the guests that were left,
    the hook, the wait for a host.

    Raises:
        PreconditionFailed: there is no such roll, it does not pause, or another drain of its host is in the way.
    """
    with transaction() as session:
        roll = existing(session, roll_id)
        if roll.state is not RollState.PAUSED:
            raise PreconditionFailed(f"roll {roll_id} is {roll.state}: only one that is paused can be resumed")
        roll.error, roll.submitted_with = None, token
        for row in roll.hosts:
            if not row.state.ended:
                _try_again(session, row)
        roll.move(session, RollState.RUNNING)
        wake(session)
        return roll


def _try_again(session: Session, row: RollHost) -> None:
    if row.state is RollHostState.DRAINING:
        row.drain_id = _taken_up_again(session, row, row.drain_id)
    elif row.state is RollHostState.RETURNING:
        row.return_id = _taken_up_again(session, row, row.return_id)
    elif row.state is RollHostState.IN_HOOK:
        row.hook_run_id = _kept(session, row.hook_run_id)
    row.error, row.since = None, now(session)


def _kept(session: Session, run_id: int | None) -> int | None:
    """The hook's run if it has done its work, or still does, after all; None if it is to be run again."""
    run = session.get(HookRun, run_id) if run_id is not None else None
    return run.id if run is not None and hooks.failure(session, run) is None else None


def _taken_up_again(session: Session, row: RollHost, drain_id: int | None) -> int | None:
    """The drain's number if it can go on; a cancelled one is followed by another."""
    drain = session.get(Drain, drain_id, with_for_update=True) if drain_id is not None else None
    if drain is None or drain.state is DrainState.CANCELLED:
        return None
    drain.submitted_with = row.roll.submitted_with
    if drain.state is DrainState.INCOMPLETE:
        drains.go_on(session, drain)
    return drain.id


def cancel(roll_id: int) -> Roll:
    """End a roll. Its drains and returns under way are cancelled; a hook that works is left to its end.

    Raises:
        PreconditionFailed: there is no such roll or it has ended.
    """
    with transaction() as session:
        roll = _unfinished(session, roll_id)
        if roll.state is not RollState.CANCELLING:
            roll.move(session, RollState.CANCELLING)
        wake(session)
        return roll


def change(roll_id: int, max_unavailable: int, by: str = "command line") -> Roll:
    """Change how many of its hosts may be out at a time. Those that are out already go on.

    Raises:
        PreconditionFailed: there is no such roll or it has ended.
    """
    with transaction() as session:
        roll = _unfinished(session, roll_id)
        roll.max_unavailable = max_unavailable
        decision_log.add(session, f"max_unavailable is {max_unavailable} now, by {by}", roll=roll_id)
        wake(session)
        return roll


def _unfinished(session: Session, roll_id: int) -> Roll:
    roll = existing(session, roll_id)
    if roll.state.ended:
        raise PreconditionFailed(f"roll {roll_id} has ended: it is {roll.state}")
    return roll


def existing(session: Session, roll_id: int) -> Roll:
    """The roll with its row locked.

    Raises:
        PreconditionFailed: there is none.
    """
    roll = session.get(Roll, roll_id, with_for_update=True)
    if roll is None:
        raise not_there.roll(roll_id)
    return roll
