"""What is shown of rolls: queries, sentences, JSON documents.

docs/reference/cli.md has the fields of documents: only add, never rename or drop one.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.orm.attributes import set_committed_value

from drover.views import drain_queries
from drover.views.queries import delivery, listed
from drover.views.sentences import Command
from drover.views.serializers import delivery_document, iso, public
from models.base import Document, now
from models.database import transaction
from models.drain import Drain
from models.host import Host
from models.roll import HookRun, Roll, RollHost, RollHostState, RollState
from workflows import hosts, not_there, outages, wait_reasons
from workflows.selectors import Selector


@dataclass(frozen=True)
class HostRow:
    """One host of a roll, and those of its drains, returns and runs of the hook that count."""

    host: RollHost
    drain: Drain | None
    run: HookRun | None
    homecoming: Drain | None

    @property
    def hook(self) -> str | None:
        """Whether the hook works, or how it ended."""
        if self.run is None:
            return None
        return "works" if self.run.ended_at is None else f"ended with {self.run.exit_code}"

    @property
    def remark(self) -> str | None:
        """What has failed, or why it waits."""
        return public(self.host.error or self.host.reason)


@dataclass(frozen=True)
class RollShot:
    """A roll with its hosts, and the database's time when it was read."""

    roll: Roll
    rows: list[HostRow]
    wait_reason: str | None
    at: datetime

    @property
    def failed(self) -> bool:
        """It pauses because of a failure."""
        return self.roll.state is RollState.PAUSED and self.roll.error is not None

    @property
    def ended(self) -> bool:
        """It does nothing more by itself."""
        return self.roll.state.ended or self.failed

    @property
    def out(self) -> list[str]:
        """Hosts that are out now."""
        return [row.host.host for row in self.rows if row.host.state.out]

    @property
    def total_s(self) -> float:
        """From its submission until its end, or until now."""
        return ((self.roll.finished_at or self.at) - self.roll.created_at).total_seconds()

    @property
    def done(self) -> int:
        """Hosts that are back."""
        return sum(row.host.state is RollHostState.DONE for row in self.rows)


def snapshot(roll_id: int) -> RollShot:
    """The roll as it is now.

    Raises:
        NotThere: there is none.
    """
    found = _read(Roll.id == roll_id, 1)
    if not found:
        raise not_there.roll(roll_id)
    return found[0]


def newest(
    *, everything: bool, limit: int, selector: Selector | None = None, since: timedelta | None = None
) -> list[RollShot]:
    """Rolls, newest first; without `everything` only those that have not ended.

    A selector is about their hosts. `since`: all that were submitted so long ago at the most.
    """
    goes_on = Roll.state.not_in([state for state in RollState if state.ended])
    which = listed(Roll.created_at, goes_on, everything=everything, since=since)
    if selector is not None:
        meant = RollHost.host.in_(select(Host.name).where(hosts.selected(selector)))
        which &= Roll.id.in_(select(RollHost.roll_id).where(meant))
    return _read(which, limit)


def _read(which: ColumnElement[bool], limit: int) -> list[RollShot]:
    query = select(Roll).where(which).order_by(Roll.id.desc()).limit(limit).options(selectinload(Roll.hosts))
    with transaction() as session:
        rolls = session.scalars(query).all()
        hosts = [row for roll in rolls for row in roll.hosts]
        counted = [row.hook_run_id for row in hosts if row.hook_run_id]
        theirs = [number for row in hosts for number in (row.drain_id, row.return_id) if number]
        runs = {run.id: run for run in session.scalars(select(HookRun).where(HookRun.id.in_(counted)))}
        drains = {drain.id: drain for drain in session.scalars(select(Drain).where(Drain.id.in_(theirs)))}
        under_way = drains_under_way(session, rolls)
        controlled, at = outages.is_attended(session), now(session)
        reasons = [wait_reasons.of_roll(roll, under_way, controlled=controlled) for roll in rolls]
        for row in hosts:
            set_committed_value(row, "reason", wait_reasons.of_host(row, under_way))

    def with_its_work(row: RollHost) -> HostRow:
        drain, run, homecoming = row.drain_id or 0, row.hook_run_id or 0, row.return_id or 0
        return HostRow(row, drains.get(drain), runs.get(run), drains.get(homecoming))

    return [
        RollShot(roll, list(map(with_its_work, roll.hosts)), reason, at)
        for roll, reason in zip(rolls, reasons, strict=True)
    ]


def drains_under_way(session: Session, rolls: Iterable[Roll]) -> dict[int, Drain]:
    """{its number: drain or return} of all their hosts, with all of why it waits."""
    numbers = [row.return_id or row.drain_id for roll in rolls for row in roll.hosts if row.state.out]
    which = Drain.id.in_(numbers) & Drain.finished_at.is_(None)
    drains = session.scalars(select(Drain).where(which).options(selectinload(Drain.guests))).all()
    drain_queries.completed(session, drains)
    return {drain.id: drain for drain in drains}


def document(shot: RollShot) -> Document:
    """Everything about one roll."""
    roll = shot.roll
    return {
        **summary(shot),
        "hook": list(roll.hook.argv),
        "hook_timeout_s": roll.hook.timeout_s,
        "back_within_s": roll.back_within.total_seconds(),
        "to": list(roll.allowed_hosts.to),
        "exclude": list(roll.allowed_hosts.exclude),
        "options": roll.options.public(),
        "hosts": [_host_document(row) for row in shot.rows],
        "webhook": delivery_document(delivery(roll_id=roll.id)),
    }


def summary(shot: RollShot) -> Document:
    """One roll among others."""
    roll = shot.roll
    return {
        "id": roll.id,
        "state": roll.state.value,
        "max_unavailable": roll.max_unavailable,
        "done": shot.done,
        "total": len(shot.rows),
        "wait_reason": public(shot.wait_reason),
        "error": public(roll.error),
        "created_at": iso(roll.created_at),
        "finished_at": iso(roll.finished_at),
    }


def _host_document(row: HostRow) -> Document:
    host = row.host
    return {
        "host": host.host,
        "state": host.state.value,
        "since": iso(host.since),
        "drain": host.drain_id,
        "return": host.return_id,
        "hook_run": row.run and _run_document(row.run),
        "reason": public(host.reason),
        "error": public(host.error),
    }


def _run_document(run: HookRun) -> Document:
    return {
        "machine": run.machine,
        "pid": run.pid,
        "begun_at": iso(run.begun_at),
        "ended_at": iso(run.ended_at),
        "exit_code": run.exit_code,
        "output": run.output,
    }


def headline(shot: RollShot) -> str:
    """The roll's state, how many hosts are done, and why it waits or what has failed."""
    why = public(shot.roll.error or shot.wait_reason)
    return standing(shot) + (f"; {why}" if why else "")


def standing(shot: RollShot) -> str:
    """The same without the reason."""
    return f"roll {shot.roll.id}: {shot.roll.state}, {shot.done} of {len(shot.rows)} hosts done"


def hook(roll: Roll) -> str:
    """The program with its arguments, as it would be typed."""
    return shlex.join(roll.hook.argv)


def verdict(shot: RollShot) -> str:
    """One line on how the roll ended, or what is to be done about a failure."""
    roll = shot.roll
    if shot.failed:
        return (
            f"paused: {public(roll.error)}. Nothing else begins; mend it, then `drover roll resume {roll.id}` tries "
            f"that again, or `drover roll cancel {roll.id}` ends the roll"
        )
    if roll.state is RollState.CANCELLED:
        return f"cancelled: {shot.done} of {len(shot.rows)} hosts were done"
    return f"done: {', '.join(row.host.host for row in shot.rows)}"


EFFECTS = {
    "pause": "nothing else of it begins; a drain, hook or return under way ends by itself",
    "resume": "it goes on; what has failed is tried again",
    "cancel": "its drains and returns under way are cancelled, a hook that works is left to its end",
}
POSSIBLE = {
    RollState.RUNNING: ("pause", "cancel"),
    RollState.PAUSED: ("resume", "cancel"),
}


def commands(roll: Roll) -> list[Command]:
    """What an operator may do about a roll now."""
    return [Command(f"drover roll {action} {roll.id}", EFFECTS[action]) for action in POSSIBLE.get(roll.state, ())]
