"""What was decided, in the log: a sentence is written once the transaction that decided it has committed.

A command has no log. Its sentences are rows until the controller that leads logs them. So all that operators did is
found in one place, and nobody speaks there whom the database does not let write that table.
"""

import logging

from sqlalchemy import delete, event, insert
from sqlalchemy.orm import Session, SessionTransaction

from drover import logs
from models import notifications
from models.notifications import Channel
from models.said import Said

log = logging.getLogger(__name__)

_KEY = "decisions"


def add(session: Session, sentence: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log a sentence after this session's transaction has committed; if it is rolled back, never."""
    told = {name: value for name, value in fields.items() if value is not None}
    if logs.configured():
        session.info.setdefault(_KEY, []).append((session.get_nested_transaction(), level, sentence, told))
        return
    row = insert(Said).values(level=level, sentence=sentence, fields=told)
    session.connection().execute(row)  # past the session: nothing is flushed by it
    notifications.add(session, Channel.SAID)


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, savepoint: SessionTransaction) -> None:
    """Drop the sentences of a savepoint that was rolled back."""
    session.info[_KEY] = [one for one in session.info.get(_KEY, ()) if one[0] is not savepoint]


def write(session: Session) -> None:
    """Log the sentences of a session whose transaction has committed."""
    for _, level, sentence, fields in session.info.pop(_KEY, ()):
        log.log(level, "%s", sentence, extra=fields)


def take_said(session: Session) -> None:
    """Log what commands have said, once this session's transaction has committed; for the controller that leads."""
    said = session.execute(delete(Said).returning(Said.id, Said.level, Said.sentence, Said.fields)).all()
    for _, level, sentence, fields in sorted(said):
        known = {name: value for name, value in fields.items() if name in logs.FIELDS}
        add(session, sentence, level=level, **known)
