"""Engine, sessions, LISTEN/NOTIFY."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

import models.access
import models.controller
import models.drain
import models.fleet
import models.guest
import models.host
import models.move_policy
import models.notice
import models.roll
import models.sample
import models.storage
import models.webhook  # noqa: F401 - tables refer to each other: with these all are known
from drover import passwords, words
from drover.settings import Settings, settings
from models import decision_log, notifications

T = TypeVar("T")

AWAY_STATES = ("08", "25006", "25P03", "40001", "53", "57")
"""Beginnings of SQLSTATE: no connection; a standby, which takes no writes; idle for too long in a transaction;
cancelled by a standby's recovery; no connection, memory or disk left; cancelled, shut down, crashed or starting."""


def away(error: BaseException) -> bool:
    """The database is unreachable or accepts no writes now. This concerns every row, not a single one."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return str(state).startswith(AWAY_STATES)


def passing(error: BaseException) -> bool:
    """The same may succeed in a moment: the database is unreachable, or another transaction was in conflict."""
    return away(error) or isinstance(error, OperationalError)


def patiently(work: Callable[[], T], say: Callable[[str], None]) -> T:
    """Do what a service needs before it can start. While the database is unreachable, wait; `say` gets the reason once.

    Raises:
        SQLAlchemyError: waiting does not help: the user or password is wrong, or the database refuses the work.
    """
    said = False
    while True:
        try:
            return work()
        except SQLAlchemyError as error:
            if not away(error) or _turned_away(error):
                raise
            if not said:
                say(f"Postgres does not answer yet ({words.first_line(error)}): waiting for it")
            said = True
            time.sleep(START_PAUSE_S)


def _turned_away(error: SQLAlchemyError) -> bool:
    """A running server refused. psycopg gives no SQLSTATE for what fails while it connects, only the server's text."""
    text = str(error)
    return "FATAL" in text and not any(words in text for words in COMING_UP)


START_PAUSE_S = 1.0
COMING_UP = (
    *("the database system is", "terminating connection", "too many clients", "remaining connection slots"),
    *("canceling authentication due to timeout", "server login has been failing"),
)
"""Texts of a server that will accept a connection later: it starts, recovers or shuts down, or has no free one."""
NO_KEY_UPDATE = {"key_share": True}
"""How a host's row is locked. A plain FOR UPDATE would wait for every insertion that refers to the host, and those for
it: a job names two hosts, which deadlocks."""
LONGEST_SILENCE_MS = 5000
"""Between two statements of one transaction; ours hold no more than a few rows for a few milliseconds."""
LONGEST_WAIT_MS = LONGEST_SILENCE_MS + 3000
"""For a lock. A hypervisor whose credentials were stolen can hold its own rows: whoever needs one fails, and goes on
with others."""


_engines: dict[tuple[str, Path | None, str | None, int], Engine] = {}


def engine() -> Engine:
    """The process's pool of connections to the database of the present settings, opened at first use.

    A process that is pointed at another database and back finds its statements compiled.
    """
    ours = settings()
    key = (ours.database_url, ours.database_password_file, ours.host, ours.concurrency)
    if key not in _engines:
        _engines[key] = _pool(ours)
    return _engines[key]


def _pool(ours: Settings) -> Engine:
    """Of connections that notice a death on either side.

    TCP keep-alives are short so that a vanished server is noticed within seconds. The server likewise ends a
    transaction whose client is frozen or vanished: it would hold its job's lock and so block that job's recovery.
    """
    made = create_engine(
        ours.database_url,
        pool_pre_ping=True,
        hide_parameters=True,  # errors with the values of a statement would carry keys into logs
        pool_size=5,
        max_overflow=ours.concurrency,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "options": f"-c idle_in_transaction_session_timeout={LONGEST_SILENCE_MS} -c lock_timeout={LONGEST_WAIT_MS} "
            "-c timezone=UTC",  # Python counts between moments of one zone by the wall: wrong as its clocks change
            "client_encoding": "utf8",  # a database made in the C locale would return text as bytes
            "application_name": f"drover {ours.host or 'control'}",
        },
    )
    if ours.database_password_file is not None:
        event.listen(made, "do_connect", partial(_log_in, ours.database_password_file))
    return made


def _log_in(file: Path, dialect: Any, _record: Any, arguments: Any, named: Any) -> Any:
    """By the first password of the file that counts: while one is renewed, that is the new one or the former one.

    Raises:
        OperationalError: of psycopg; none counts, or there is no connection.
    """
    refused = None
    try:
        known = passwords.listed(file)
    except OSError as error:
        raise psycopg.OperationalError(f"the password for Postgres cannot be read: {error}") from error
    for password in known:
        try:
            return dialect.connect(*arguments, **(named | {"password": password}))
        except psycopg.OperationalError as error:
            if error.pgconn is None or not error.pgconn.used_password:
                raise
            refused = error
    raise refused or psycopg.OperationalError(f"{file} has no password in it")


def disconnect() -> None:
    """Close all connections that nothing uses: the server ends, or nothing that it has told them holds any longer."""
    for made in _engines.values():
        made.dispose()


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose changes are committed at the end, or not at all. Objects stay readable after."""
    with Session(engine(), expire_on_commit=False) as session:
        with session.begin():
            yield session
        decision_log.write(session)
        notifications.send(session)


@contextmanager
def autocommitting() -> Iterator[Connection]:
    """A connection whose statements each are a transaction of their own."""
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


@contextmanager
def unpooled() -> Iterator[Connection]:
    """Likewise, on a connection that is closed at the end: the server frees the locks that its session holds."""
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        yield connection


@contextmanager
def listening(connection: Connection, *channels: str) -> Iterator[Callable[[float], list[str]]]:
    """LISTEN to channels on an autocommitting connection, for the time of a `with` block.

    Yields `wait(timeout_s)`, which returns the payloads that came, if any. Notifications may be lost: poll as well.

    Raises:
        OperationalError: the connection is gone.
    """
    for channel in channels:
        connection.execute(text(f"LISTEN {channel}"))
    raw = cast("psycopg.Connection[Any]", connection.connection.dbapi_connection)

    def wait(timeout_s: float) -> list[str]:
        try:
            return [said.payload for said in raw.notifies(timeout=timeout_s, stop_after=1)]
        except psycopg.OperationalError as error:
            raise OperationalError(f"LISTEN {', '.join(channels)}", None, error) from error

    try:
        yield wait
    finally:
        with suppress(SQLAlchemyError):  # the connection is gone
            connection.execute(text("UNLISTEN *"))
