"""Isolates errors per row: each row is handled in its own transaction, and one that raises is set aside.

The row has the reason, the log the traceback, and it is tried again after a pause that doubles each time. Pauses are
in the memory of the controller that leads: another one tries at once.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from kombu.exceptions import OperationalError as BrokerUnreachable
from redis.exceptions import RedisError
from sqlalchemy import exc, select, update

from drover import logs, words
from drover.broker import health
from drover.errors import DroverError
from models.database import away, transaction
from models.drain import Drain
from models.job import Job
from models.roll import Roll

log = logging.getLogger(__name__)

Row = type[Job] | type[Drain] | type[Roll]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
REMEMBERED_S = 3600.0
LONGEST_REASON = 500
TROUBLE = "the controller could not go on with it and tries again (its log has more): "
"""How the reason of a row that was set aside begins."""


@dataclass
class Pauses:
    """Until when rows are set aside, by what was tried with them."""

    _rows: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self, what: str, ids: Iterable[int]) -> list[int]:
        """Those that are not set aside now."""
        with self._lock:
            return [one for one in ids if self._rows.get((what, one), (0, 0.0))[1] <= time.monotonic()]

    def failed(self, what: str, row_id: int) -> float:
        """Set a row aside; returns for how many seconds."""
        now = time.monotonic()
        with self._lock:
            self._rows = {row: entry for row, entry in self._rows.items() if entry[1] > now - REMEMBERED_S}
            times, _ = self._rows.get((what, row_id), (0, 0.0))
            pause_s = float(min(FIRST_PAUSE_S * 2 ** min(times, 10), LONGEST_PAUSE_S))
            self._rows[what, row_id] = (times + 1, now + pause_s)
        return pause_s

    def succeeded(self, what: str, row_id: int) -> None:
        """Forget its failures."""
        with self._lock:
            self._rows.pop((what, row_id), None)

    def clear(self) -> None:
        """Forget all failures."""
        with self._lock:
            self._rows.clear()


PAUSES = Pauses()


def each(what: str, table: Row, ids: Iterable[int], do: Callable[[int], None]) -> None:
    """Do it with each row that is not set aside now, in a transaction of its own; one that raises is set aside.

    Raises:
        Exception: what concerns every row, because the database or the broker is unreachable.
    """
    for row_id in PAUSES.due(what, ids):
        with _about(table, row_id):
            try:
                do(row_id)
            except Exception as error:
                set_aside(what, table, row_id, error)
            else:
                PAUSES.succeeded(what, row_id)


def _about(table: Row, row_id: int) -> AbstractContextManager[None]:
    return logs.about(**{table.__tablename__: row_id})


def set_aside(what: str, table: Row, row_id: int, error: Exception) -> None:
    """Log what a row has raised, write it into the row, and set the row aside for a while.

    Raises:
        Exception: the error itself, when it does not concern this row alone.
    """
    if away(error):
        raise error
    show(table, row_id, error)
    if isinstance(error, (BrokerUnreachable, RedisError, ConnectionError)):
        health.check_broker()
    pause_s = PAUSES.failed(what, row_id)
    with _about(table, row_id):
        about = f"{table.__tablename__} {row_id}"
        log.error("%s is set aside for %.0f s, guests run on: to %s raised", about, pause_s, what, exc_info=error)


def show(table: Row, row_id: int, error: Exception) -> None:
    """Write what is wrong into the row, unless it is locked now."""
    free = select(table.id).where(table.id == row_id).with_for_update(skip_locked=True).scalar_subquery()
    try:
        with transaction() as session:
            session.execute(update(table).where(table.id == free).values(wait_reason=reason(error)))
    except exc.SQLAlchemyError as other:
        log.warning("the reason cannot be written into the row: %s", other)


def reason(error: Exception) -> str:
    """What an operator reads on the row."""
    said = words.first_line(error).replace("\0", "")[:LONGEST_REASON]
    return TROUBLE + (said if isinstance(error, DroverError) else f"{type(error).__name__}: {said}")


def forget_trouble(row: Job | Drain | Roll) -> None:
    """Clear the reason that an earlier error left in the row."""
    if row.wait_reason is not None and row.wait_reason.startswith(TROUBLE):
        row.wait_reason = None
