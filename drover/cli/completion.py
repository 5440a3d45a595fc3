"""What the shell completes by asking the database. An error completes nothing and says nothing."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Executable, select

from models.database import transaction
from models.guest import Guest
from models.host import Host
from models.job import Job

NEWEST = 50

Candidates = list[tuple[str, str]]


def _matching(query: Callable[[], Executable], incomplete: str) -> Candidates:
    try:
        with transaction() as session:
            rows: Sequence[Any] = session.execute(query()).all()
    except Exception:  # a prompt is no place for the database's troubles
        return []
    return [(str(row[0]), " ".join(row[1:])) for row in rows if str(row[0]).startswith(incomplete)]


def hosts(incomplete: str) -> Candidates:
    """Names of hosts."""
    return _matching(lambda: select(Host.name, Host.address).order_by(Host.name), incomplete)


def guests(incomplete: str) -> Candidates:
    """Names of guests."""
    return _matching(lambda: select(Guest.name, Guest.host).order_by(Guest.name), incomplete)


def jobs(incomplete: str) -> Candidates:
    """Numbers of the newest jobs."""
    return _matching(
        lambda: select(Job.id, Job.guest, Job.destination, Job.state).order_by(Job.id.desc()).limit(NEWEST), incomplete
    )
