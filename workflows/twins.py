"""A guest that runs twice is an alarm: another QEMU, here or on another host, has its UUID, its name or a MAC of it.

Each worker reports the QEMUs that it sees; the controller compares. While a job moves the guest there are two.
"""

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from drover.settings import Settings
from models import decision_log
from models.database import transaction
from models.documents import SeenQemu
from models.guest import Guest
from models.host import Host
from models.job import Job, unfinished
from workflows.presence import alive

LATELY = timedelta(minutes=5)
"""A host's report of before the end of a job may still name the QEMU that the guest has left. None is older."""
Seen = Mapping[str, tuple[str, SeenQemu, datetime]]
"""{process: its host, what is seen of it, when that host looked}."""


def look(ours: Settings) -> None:
    """Write down which guests run twice now, and say so once."""
    with transaction() as session:
        seen = _seen(session, ours)
        moving = set(session.scalars(select(Job.guest).where(unfinished())))
        lately = Job.finished_at > func.clock_timestamp() - LATELY
        ended = select(Job.guest, func.max(Job.finished_at).label("at")).where(lately).group_by(Job.guest)
        moved_at = {row.guest: row.at for row in session.execute(ended)}
        guests = session.scalars(select(Guest)).all()
        known = {guest.process for guest in guests}
        for guest in guests:
            if guest.name not in moving and guest.process is not None:
                others = (entry for process, entry in seen.items() if process not in known)
                _compare(session, guest, seen, others, moved_at.get(guest.name))


def _seen(session: Session, ours: Settings) -> dict[str, tuple[str, SeenQemu, datetime]]:
    rows = session.execute(select(Host.name, Host.qemus, Host.qemus_at).where(alive(ours), Host.qemus.is_not(None)))
    return {
        qemu.process: (host, qemu, at)
        for host, reported, at in rows
        if reported is not None and at is not None
        for qemu in reported.qemus
    }


def _compare(
    session: Session,
    guest: Guest,
    seen: Seen,
    others: Iterator[tuple[str, SeenQemu, datetime]],
    moved_at: datetime | None,
) -> None:
    mine = seen.get(guest.process or "")
    if mine is None:
        return  # it is gone, or its host is silent: nothing to compare with
    since = max(filter(None, (guest.adopted_at, guest.moved_at, moved_at)))
    twins = (why for host, other, at in others if at > since and (why := _same(host, mine[1], other)))
    twin = next(twins, None)
    if twin is not None and guest.twin is None:
        sentence = f"the guest runs twice: {twin}. End one of the two before both have written to its data"
        decision_log.add(session, sentence, level=logging.ERROR, guest=guest.name)
    elif twin is None and guest.twin is not None:
        decision_log.add(session, "the guest runs only once again", guest=guest.name)
    guest.twin = twin


def _same(host: str, mine: SeenQemu, other: SeenQemu) -> str | None:
    """What two of them have in common that only one may have."""
    shared = sorted(set(mine.macs) & set(other.macs))
    if mine.uuid is not None and mine.uuid == other.uuid:
        what = f"its UUID {mine.uuid}"
    elif mine.name is not None and mine.name == other.name:
        what = f"its name {mine.name}"
    elif shared:
        what = f"its MAC {shared[0]}"
    else:
        return None
    whose = f", a process of {other.user}," if other.user else ""
    return f"pid {other.pid} on {host}{whose} has {what} as well"
