"""Outages that jobs outlived, told in their events by whoever is back: a host's worker, the controller, Redis.

What QEMU and the switchover processes did meanwhile went on; what waited shows in the times of the steps.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from drover.words import clock
from models.base import now
from models.controller import Controller
from models.event_action import EventAction
from models.host import Host
from models.job import Job, record_event, unfinished
from workflows import leader_election

AWAY = timedelta(seconds=15)
"""A controller that did not look for this long was away; others take the lead within a second or two."""
ATTENDED = timedelta(seconds=20)


def attended() -> ColumnElement[bool]:
    """A controller leads, or did a moment ago: while Redis takes no messages it gives the lead up again and again."""
    looked = exists().where(Controller.looked_at > func.clock_timestamp() - ATTENDED)
    return or_(leader_election.acting(), looked)


def is_attended(session: Session) -> bool:
    """Likewise, as it is now."""
    return bool(session.scalar(select(attended())))


def host_is_back(session: Session, host: str, timeout: timedelta) -> None:
    """To be called before a worker renews its heartbeat: was it silent?"""
    silent = Host.heartbeat_at < func.clock_timestamp() - timeout
    heard = session.scalar(select(Host.heartbeat_at).where(Host.name == host, silent))
    if heard is not None:
        span = clock((now(session) - heard).total_seconds())
        why = f"{host} was silent for {span}: its worker was down, or could not reach the database"
        _tell(session, heard, why, by=host, host=host)


def controller_looks(session: Session, by: str) -> None:
    """To be called by the controller that leads, now and then: was there none for a while?"""
    at, last = now(session), session.scalar(select(Controller.looked_at).with_for_update())
    session.merge(Controller(id=1, looked_at=at))
    if last is not None and at - last > AWAY:
        why = f"no controller was active for {clock((at - last).total_seconds())}: no step was begun meanwhile"
        _tell(session, last, why, by=by)


def _tell(session: Session, since: datetime, why: str, *, by: str, host: str | None = None) -> None:
    """In the events of jobs that were there when it began."""
    outlived = select(Job).where(unfinished(), Job.created_at < since).order_by(Job.id)
    if host is not None:
        outlived = outlived.where((Job.source == host) | (Job.destination == host))
    for job in session.scalars(outlived):
        record_event(session, job.id, by=by, action=EventAction.OUTAGE, sentence=why)
