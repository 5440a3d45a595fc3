"""What was decided, in the log: a sentence is written once the transaction that decided it has committed.

A command has no log. It sends its sentences by NOTIFY to the controller that leads, which logs them. So all that
operators did is found in one place.
"""

import json
import logging
from collections.abc import Sequence

from pydantic import Field, ValidationError
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session, SessionTransaction

from drover import logs
from models.contracts import Part

log = logging.getLogger(__name__)

CHANNEL = "drover_said"
"""Commands of earlier versions use this name as well."""
LONGEST = 2000
"""Postgres takes 8000 bytes in a notification."""
_KEY = "decisions"


def add(session: Session, sentence: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log a sentence after this session's transaction has committed; if it is rolled back, never."""
    told = {name: value for name, value in fields.items() if value is not None}
    if logs.configured():
        session.info.setdefault(_KEY, []).append((session.get_nested_transaction(), level, sentence, told))
        return
    payload = json.dumps({"level": level, "sentence": sentence[:LONGEST], "fields": told}, default=str)
    session.connection().execute(select(func.pg_notify(CHANNEL, payload)))  # past the session: nothing is flushed by it


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, savepoint: SessionTransaction) -> None:
    """Drop the sentences of a savepoint that was rolled back."""
    session.info[_KEY] = [one for one in session.info.get(_KEY, ()) if one[0] is not savepoint]


def write(session: Session) -> None:
    """Log the sentences of a session whose transaction has committed."""
    for _, level, sentence, fields in session.info.pop(_KEY, ()):
        log.log(level, "%s", sentence, extra=fields)


class Said(Part):
    """What a command sends. Whoever may log in to the database can send anything by that name."""

    level: int = Field(ge=logging.DEBUG, le=logging.CRITICAL)
    sentence: str = Field(max_length=LONGEST)
    fields: dict[str, str | int | float | bool]


def write_notified(payloads: Sequence[str]) -> None:
    """Log the sentences that commands sent; called in the controller that leads."""
    for payload in filter(None, payloads):
        try:
            told = Said.model_validate_json(payload)
        except ValidationError:
            log.debug("a notification was left alone that no command sends")
            continue
        known = {name: value for name, value in told.fields.items() if name in logs.FIELDS}
        log.log(told.level, "%s", told.sentence, extra=known)
