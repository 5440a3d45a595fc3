"""What wakes whoever LISTENs, sent once a transaction has committed and never in it.

Postgres lets any role fill its queue of notifications, or hold its lock on that for as long as a large commit takes.
A transaction with a notification of its own then fails, or waits. Without one nothing but time is lost: whoever is
woken looks by itself as well.
"""

import enum
import logging

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

log = logging.getLogger(__name__)


class Channel(enum.StrEnum):
    """What may be notified."""

    WAKE = "drover_wake"
    """The controller that leads is to look at once, so that it need not poll often."""
    ANSWERED = "drover_answered"
    """A host has answered a question, whose number is the payload: the process that asked reads the answer."""
    SAID = "drover_said"
    """A command has left sentences for the log of the controller that leads."""


PATIENCE = "200ms"
_KEY = "notifications"


def add(session: Session, channel: Channel, payload: str = "") -> None:
    """Notify once this session's transaction has committed."""
    session.info.setdefault(_KEY, set()).add((channel, payload))


def send(session: Session) -> None:
    """Those of a session whose transaction has committed."""
    wanted = session.info.pop(_KEY, None)
    if not wanted:
        return
    told = (func.pg_notify(channel, payload) for channel, payload in wanted)
    try:
        with session.begin():
            session.execute(select(func.set_config("lock_timeout", PATIENCE, True), *told))
    except SQLAlchemyError as error:
        log.debug("nobody was notified: %s", error)
