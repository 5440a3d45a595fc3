"""Counts the statements that Postgres is sent, from its own log."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import text

from lab.directory import Lab
from models.database import engine

PREFIX = re.compile(
    r"^(?P<at>\d+\.\d+) (?P<pid>\d+) \[(?P<who>[^\]]*)\] LOG:  (?:statement|execute [^:]*): (?P<sql>.*)$"
)
PING = ";"
"""What SQLAlchemy sends before each transaction to see whether the connection still lives (pool_pre_ping)."""
BOUNDS = ("BEGIN", "COMMIT", "ROLLBACK")


@dataclass
class Transaction:
    """What was sent between BEGIN and COMMIT, those two left out."""

    at: float
    who: str
    statements: list[str] = field(default_factory=list)

    @property
    def is_progress(self) -> bool:
        """It records how far a copy is, or shares the bandwidth out anew: once a second while a copy lasts."""
        words = " ".join(self.statements)
        return "UPDATE disk SET bytes" in words or "UPDATE job SET ram" in words or "FROM disk JOIN job" in words


@contextmanager
def logged(lab: Lab) -> Iterator[list[Transaction]]:
    """All transactions of a `with` block; the list is filled at its end."""
    seen: list[Transaction] = []
    log = lab.logs / "postgres.log"
    _configure("ALTER SYSTEM SET log_statement = 'all'", "ALTER SYSTEM SET log_line_prefix = '%n %p [%a] '")
    begin = log.stat().st_size
    try:
        yield seen
    finally:
        _configure("ALTER SYSTEM RESET log_statement", "ALTER SYSTEM RESET log_line_prefix")
        seen += _transactions(log.read_bytes()[begin:].decode())


def _configure(*commands: str) -> None:
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for command in (*commands, "SELECT pg_reload_conf()"):
            connection.execute(text(command))
    time.sleep(0.5)  # servers take it up when they next wait for a command


def _whole(log: str) -> list[str]:
    """The log's entries, one line each: a further line of one begins with a tab."""
    return log.replace("\n\t", " ").splitlines()


def _transactions(log: str) -> list[Transaction]:
    going_on: dict[str, Transaction] = {}
    ended: list[Transaction] = []
    for line in _whole(log):
        found = PREFIX.match(line)
        if found is None:
            continue  # not a statement
        word, process = found["sql"].split(maxsplit=1)[0].upper() if found["sql"].strip() else "", found["pid"]
        current = going_on.setdefault(process, Transaction(float(found["at"]), found["who"]))
        if word in BOUNDS:
            ended.append(going_on.pop(process))
        elif word != PING:
            current.statements.append(found["sql"])
    return [*ended, *going_on.values()]
