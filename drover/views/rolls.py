"""What is shown of rolls: queries, sentences, JSON documents.

docs/reference/cli.md has the fields of documents: only add, never rename or drop one.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import selectinload

from drover.errors import PreconditionFailed
from drover.views.sentences import Command
from drover.views.serializers import iso, public
from models.base import Document
from models.database import transaction
from models.roll import HookRun, Roll, RollHost, RollHostState, RollState
from workflows import leader_election, wait_reasons


@dataclass(frozen=True)
class HostRow:
    """One host of a roll, and the run of the hook that counts."""

    host: RollHost
    run: HookRun | None

    @property
    def remark(self) -> str | None:
        """What has failed, or why it waits."""
        return public(self.host.error or self.host.reason)


@dataclass(frozen=True)
class RollShot:
    """A roll with its hosts as they are now."""

    roll: Roll
    rows: list[HostRow]
    wait_reason: str | None

    @property
    def failed(self) -> bool:
        """It pauses because of a failure."""
        return self.roll.state is RollState.PAUSED and self.roll.error is not None

    @property
    def ended(self) -> bool:
        """It does nothing more by itself."""
        return self.roll.state.ended or self.failed

    @property
    def done(self) -> int:
        """Hosts that are back."""
        return sum(row.host.state is RollHostState.DONE for row in self.rows)


def snapshot(roll_id: int) -> RollShot:
    """The roll as it is now.

    Raises:
        PreconditionFailed: there is none.
    """
    found = _read(Roll.id == roll_id, 1)
    if not found:
        raise PreconditionFailed(f"there is no roll {roll_id}: see `drover roll list --all`")
    return found[0]


def newest(*, everything: bool, limit: int) -> list[RollShot]:
    """Rolls, newest first; without `everything` only those that have not ended."""
    ended = [state for state in RollState if state.ended]
    return _read(Roll.id.is_not(None) if everything else Roll.state.not_in(ended), limit)


def _read(which: ColumnElement[bool], limit: int) -> list[RollShot]:
    query = select(Roll).where(which).order_by(Roll.id.desc()).limit(limit).options(selectinload(Roll.hosts))
    with transaction() as session:
        rolls = session.scalars(query).all()
        counted = [row.hook_run_id for roll in rolls for row in roll.hosts if row.hook_run_id]
        runs = {run.id: run for run in session.scalars(select(HookRun).where(HookRun.id.in_(counted)))}
        controlled = leader_election.anybody_acts(session)
    return [
        RollShot(
            roll,
            [HostRow(row, runs.get(row.hook_run_id or 0)) for row in roll.hosts],
            wait_reasons.of_roll(roll, controlled=controlled),
        )
        for roll in rolls
    ]


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
    roll = shot.roll
    why = public(roll.error or shot.wait_reason)
    return f"roll {roll.id}: {roll.state}, {shot.done} of {len(shot.rows)} hosts done" + (f"; {why}" if why else "")


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
