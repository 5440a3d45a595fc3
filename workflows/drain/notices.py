"""Whether a guest may be moved now is asked before a drain, a return or a roll moves it, where its policy says so.

The question is a row, written when the guest's turn has come; the controller asks (`drover.controller.notices`) and
writes down the answer. While it is asked the guest keeps its slot. A no, or no answer, makes it wait until it is asked
again, or until an operator overrules that.
"""

import enum
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from drover import words
from drover.errors import PreconditionFailed
from models import decision_log
from models.base import now
from models.controller import wake
from models.database import transaction
from models.documents import MigrationOptions, Notice
from models.drain import Drain, DrainGuest, GuestState
from models.event_action import EventAction
from models.job import Job, record_event
from models.notice import Answer, GuestNotice
from workflows import policies
from workflows.drain import commands
from workflows.guests import known_guest
from workflows.schedule import Wait

AGAIN = timedelta(seconds=60)
"""After a no it is not asked again sooner."""
HOLDS = timedelta(minutes=10)
"""For so long a yes holds; a move that could not begin by then is asked about anew."""
GRACE = timedelta(seconds=15)
"""A question without an answer so long after its deadline was lost with its controller."""

Newest = dict[str, GuestNotice]
"""{guest: the question that was asked last}."""
Ways = Mapping[str, MigrationOptions]
"""{guest: how it is moved}."""


class Standing(enum.Enum):
    """What is to be done about a guest whose turn has come."""

    MAY = enum.auto()
    MAY_NOT = enum.auto()
    ASKED = enum.auto()
    TO_ASK = enum.auto()


def newest(session: Session, drain: Drain, ways: Ways) -> Newest:
    """Of one drain; nothing is looked up where nobody is to be asked."""
    if not any(way.notice for way in ways.values()):
        return {}
    last = select(func.max(GuestNotice.id)).where(GuestNotice.drain_id == drain.id).group_by(GuestNotice.guest)
    return {row.guest: row for row in session.scalars(select(GuestNotice).where(GuestNotice.id.in_(last)))}


def standing(notice: Notice | None, last: GuestNotice | None, at: datetime) -> Standing:
    """By what was answered last. No I/O."""
    if notice is None or (last is not None and last.answer is Answer.OVERRULED):
        return Standing.MAY
    if last is None:
        return Standing.TO_ASK
    if last.answered_at is None:
        lost = at > last.asked_at + timedelta(seconds=last.notice.deadline_s) + GRACE
        return Standing.TO_ASK if lost else Standing.ASKED
    if last.answer is Answer.YES or (last.answer is Answer.NONE and notice.silence == "go-on"):
        return Standing.MAY if at < last.answered_at + HOLDS else Standing.TO_ASK
    return Standing.MAY_NOT if at < _again_at(last, last.answered_at) else Standing.TO_ASK


def _again_at(last: GuestNotice, answered_at: datetime) -> datetime:
    return max(last.not_before or answered_at, answered_at + AGAIN)


def vetoes(ways: Ways, last: Newest, at: datetime) -> dict[str, Wait]:
    """The guests that may not be moved now, and why. No I/O."""
    against = {name: last[name] for name, way in ways.items() if standing_of(name, ways, last, at) is Standing.MAY_NOT}
    return {name: Wait(why=_veto(row, row.answered_at or at)) for name, row in against.items()}


def _veto(row: GuestNotice, answered_at: datetime) -> str:
    again = _again_at(row, answered_at).astimezone(UTC)
    return (
        f"{row.sentence}; it is asked again at {again:%Y-%m-%d %H:%M:%S} UTC, "
        f"`drover drain overrule {row.drain_id} {row.guest}` moves it anyway"
    )


def standing_of(guest: str, ways: Ways, last: Newest, at: datetime) -> Standing:
    """The same for one guest of a drain. No I/O."""
    return standing(ways[guest].notice, last.get(guest), at)


def ask_first(session: Session, row: DrainGuest, ways: Ways, last: Newest, at: datetime) -> str | None:
    """Why a guest whose turn has come waits for an answer; None if it may be moved. Asks if that is due."""
    notice, due = ways[row.guest].notice, standing_of(row.guest, ways, last, at)
    if notice is None or due is Standing.MAY or row.destination is None:
        return None
    if due is Standing.TO_ASK:
        last[row.guest] = GuestNotice(
            drain_id=row.drain_id, guest=row.guest, source=row.source, destination=row.destination, notice=notice
        )
        session.add(last[row.guest])
        decision_log.add(
            session, f"{notice} is asked whether {row.guest} may be moved now", drain=row.drain_id, guest=row.guest
        )
    anyway = f"`drover drain overrule {row.drain_id} {row.guest}` moves it anyway"
    return f"{notice} is asked whether it may be moved now, for up to {words.duration(notice.deadline_s)} ({anyway})"


def unanswered() -> ColumnElement[bool]:
    """Questions that are under way, or to be asked."""
    return GuestNotice.answered_at.is_(None)


def answer(number: int, told: Answer, reason: str | None, not_before: datetime | None = None) -> None:
    """Write down what was answered. What an operator has said meanwhile stays."""
    with transaction() as session:
        mine = (GuestNotice.id == number) & unanswered()
        values = {"answer": told, "reason": reason, "not_before": not_before, "answered_at": now(session)}
        row = session.scalar(update(GuestNotice).where(mine).values(values).returning(GuestNotice))
        if row is not None:
            decision_log.add(session, row.sentence, drain=row.drain_id, guest=row.guest)
            wake(session)


def overrule(drain_id: int, guest: str, by: str) -> None:
    """Have a guest of a drain moved whatever is answered about it.

    Raises:
        PreconditionFailed: it does not wait for its turn there, or nobody is asked about it.
    """
    row_of_guest = known_guest(guest)
    with transaction() as session:
        drain = commands.existing(session, drain_id)
        row = session.get(DrainGuest, (drain_id, guest))
        if row is None or row.state is not GuestState.WAITING or drain.state.ended:
            state = "is none of its guests" if row is None else f"is {row.state}"
            raise PreconditionFailed(f"{guest} does not wait for its turn in drain {drain_id}: it {state}")
        how = policies.decided(row_of_guest, drain.options, policies.all_of(session))
        if how.notice is None:
            raise PreconditionFailed(f"nobody is asked before {guest} is moved: there is nothing to overrule")
        said = {"answer": Answer.OVERRULED, "answered_at": now(session), "reason": by}
        where = {"source": row.source, "destination": row.destination or ""}
        overruled = GuestNotice(drain_id=drain_id, guest=guest, notice=how.notice, **where, **said)
        session.add(overruled)
        row.reason = None
        decision_log.add(session, overruled.sentence, drain=drain_id, guest=guest)
        wake(session)


def tell(session: Session, job: Job) -> None:
    """What was answered before a job of a drain is part of its events."""
    mine = (GuestNotice.drain_id == job.drain_id) & (GuestNotice.guest == job.guest) & GuestNotice.job_id.is_(None)
    for row in session.scalars(select(GuestNotice).where(mine, ~unanswered()).order_by(GuestNotice.id)):
        row.job_id = job.id
        at = f"{row.answered_at:%H:%M:%S %Z}"
        record_event(
            session, job.id, by=f"drain {row.drain_id}", action=EventAction.NOTICE, sentence=f"{at}: {row.sentence}"
        )
