"""What is left here of a guest that lives elsewhere by now starts it no more.

A guest leaves its host without that host's doing only by an operator's word that the host is off for good
(`--fenced HOST`), or if it is forgotten and adopted elsewhere. Its launch file and its unit are on that host still.
"""

import logging
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from drover.settings import Settings
from models.database import transaction
from models.guest import Guest
from models.job import Job, unfinished
from workers.launcher import run, units
from workers.launcher.whereabouts import not_on

log = logging.getLogger(__name__)


def look(ours: Settings) -> None:
    """Put aside what could start a guest here that lives elsewhere. A living QEMU is not touched."""
    files = {path.stem: path for path in run.launch_file("*", ours.directory).parent.glob("*.json")}
    if not files:
        return
    with transaction() as session:
        absent = session.scalars(select(Guest.name).where(Guest.name.in_(files), Guest.host != ours.host)).all()
    for guest in sorted(absent):  # hardly ever one; each is asked about right before its file goes
        with transaction() as session:
            there = _given_away(session, guest, ours.host)
        if there is not None:
            _put_aside(files[guest], ours, there)


def _given_away(session: Session, guest: str, host: str) -> str | None:
    """Where it lives instead. While a job moves it from or to this host, unless it is fenced, steps see to that."""
    involved = or_(Job.source == host, Job.destination == host)
    moving = select(Job.id).where(unfinished(), Job.guest == guest, involved, Job.fenced.is_distinct_from(host))
    return session.scalars(not_on(guest, host).where(~moving.exists())).one_or_none()


def _put_aside(cold: Path, ours: Settings, there: str) -> None:
    guest, aside = cold.stem, cold.with_suffix(".moved")
    units.take_away(guest)
    cold.replace(aside)  # last: as long as it is there all of this is done again
    log.warning(
        "%s lives on %s, and is not started on %s any more: its launch file is %s now",
        *(guest, there, ours.host, aside),
        extra={"guest": guest},
    )
