"""Whether a host is empty enough for a hook, and well enough to be used again after it. Read from rows alone."""

import re

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from drover.settings import Settings
from drover.words import count
from models.documents import AllowedHosts, HostBefore
from models.drain import Drain, DrainKind
from models.guest import Guest
from models.host import Host, HostState
from models.job import Job
from models.roll import RollHost
from models.transitions import BEGUN
from workflows import capacity, host_keys
from workflows.capacity import Room
from workflows.drain.planner import candidate, guests_of, placed

VERSION = re.compile(r"\d+(?:\.\d+)+")


def before(host: Host) -> HostBefore:
    """What is compared once the hook has worked on the host."""
    return HostBefore(incarnation=host.incarnation, qemu=host.facts.qemu)


def unavailable(room: Room) -> str | None:
    """Why a host is out already, whatever the cause; None if guests can run there."""
    return room.silence if room.silent else room.closed_by_operator


def in_the_way(session: Session, name: str) -> str | None:
    """What a hook, which may reboot the host, would end or disturb."""
    host = session.get_one(Host, name)
    if host.state is not HostState.MAINTENANCE:
        return f"{name} is {host.state} and no longer in maintenance: somebody opened it"
    if guests := session.scalars(select(Guest.name).where(Guest.host == name).order_by(Guest.name)).all():
        return f"{count(len(guests), 'guest is', 'guests are')} on {name} again: {', '.join(guests)}: move them away"
    here = or_(Job.source == name, Job.destination == name)
    if (job := session.scalar(select(Job).where(here, Job.state.in_(BEGUN)).limit(1))) is not None:
        return f"job {job.id} still has something on {name}: it is {job.state}, see `drover job show {job.id}`"
    if host.qemus is not None and host.qemus.qemus:
        one = host.qemus.qemus[0]
        return (
            f"pid {one.pid} on {name}{f' ({one.name})' if one.name else ''} is a QEMU that is no guest of Drover: "
            "adopt it or end it"
        )
    return None


def was_looked_at(session: Session, name: str, drain: Drain) -> bool:
    """Its worker has looked for QEMUs since it was emptied; a worker of an earlier version never does."""
    host = session.get_one(Host, name)
    return host.qemus_at is None or drain.finished_at is None or host.qemus_at > drain.finished_at


def obstacle(session: Session, row: RollHost, ours: Settings) -> str | None:
    """Why a host cannot have its guests back yet, as a sentence; None if it can."""
    host = session.get_one(Host, row.host)
    if capacity.rooms(session, ours)[row.host].silent:
        return f"{row.host} is silent since {host.heartbeat_at:%H:%M:%S %Z} (is its worker down?): start it there"
    if row.before is not None and host.incarnation == row.before.incarnation:
        return f"the worker of {row.host} has not been started anew since its hook began: restart it there"
    if another := host_keys.unproven(host):
        return f"{another}: {host_keys.remedy(host)}"
    return _qemu_fault(host, row.before) or _lacking(session, row.host)


def _qemu_fault(host: Host, earlier: HostBefore | None) -> str | None:
    """A guest cannot go to a QEMU that is older than its own."""
    if host.facts.qemu is None:
        return f"{host.name} has no QEMU: install it"
    if earlier is not None and earlier.qemu is not None and _version(host.facts.qemu) < _version(earlier.qemu):
        came_back = f"{host.name} came back with an older QEMU: {host.facts.qemu}, before it had {earlier.qemu}"
        return f"{came_back}: install that or a newer one"
    return None


def _version(line: str) -> tuple[int, ...]:
    found = VERSION.search(line)
    return tuple(map(int, found[0].split("."))) if found else ()


def _lacking(session: Session, name: str) -> str | None:
    """It has no room any more for guests that are to come home."""
    away = guests_of(session, DrainKind.RETURN, name)
    candidates = [candidate(guest, preferred=name, refused_by={}) for guest in away]
    left = placed(session, DrainKind.RETURN, name, AllowedHosts(), candidates).left
    return next((f"{guest} has no room on {name}: {why}" for guest, why in sorted(left.items())), None)
