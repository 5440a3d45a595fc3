"""The fleet as it is shown: a room per host, with what is used and promised there and which guests are in it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from drover.settings import Settings
from models.guest import Guest
from models.host import Host, HostState
from models.job import Job, JobState, unfinished
from workflows import capacity
from workflows.presence import alive
from workflows.selectors import shown

CONDITIONS = ("silent", "cordoned", "in maintenance", "with moves", "waiting for an operator")
"""What rooms can be filtered by."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """How much of a host's memory or disk is used by guests that live there, promised to others, and left. In bytes."""

    used: int
    promised: int
    limit: int | None
    """None: its worker has not told yet."""
    unwritten: int = 0
    """What thin images there may take one day."""

    @property
    def free(self) -> int | None:
        """Negative where more was promised than there is."""
        return None if self.limit is None else self.limit - self.used - self.promised


@dataclass(frozen=True, kw_only=True)
class Move:
    """A job that has not ended, and its guest."""

    job_id: int
    guest: str
    source: str
    destination: str
    state: JobState
    held: bool

    @property
    def needs_operator(self) -> bool:
        """A person must decide."""
        return self.state is JobState.NEEDS_OPERATOR


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A guest that lives on a host, and the job that moves it."""

    name: str
    move: Move | None
    memory_bytes: int
    disk_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)
    gone_at: datetime | None = None
    """Since when its QEMU is seen to have ended."""


@dataclass(kw_only=True)
class Room:
    """A host as the page of the fleet shows it."""

    name: str
    state: HostState
    alive: bool
    heartbeat_at: datetime
    memory: Use
    disk: Use
    labels: Mapping[str, str] = field(default_factory=dict)
    guests: list[Resident] = field(default_factory=list)
    arriving: list[Move] = field(default_factory=list)

    @property
    def leaving(self) -> list[Move]:
        """Moves away from it."""
        return [guest.move for guest in self.guests if guest.move and guest.move.destination != self.name]

    @property
    def conditions(self) -> set[str]:
        """Those of `CONDITIONS` that hold."""
        moves = self.leaving + self.arriving
        found = {
            "silent": not self.alive,
            "cordoned": self.state is HostState.CORDONED,
            "in maintenance": self.state is HostState.MAINTENANCE,
            "with moves": bool(moves),
            "waiting for an operator": any(move.needs_operator for move in moves),
        }
        return {name for name, holds in found.items() if holds}

    def mentions(self, text: str) -> bool:
        """A name or a label, of the host or of a guest there or on its way there, has this text in it."""
        words = [self.name, shown(self.labels), *(move.guest for move in self.arriving)]
        words += [word for guest in self.guests for word in (guest.name, shown(guest.labels))]
        return any(text.lower() in word.lower() for word in words)


def rooms(session: Session, ours: Settings) -> list[Room]:
    """All hosts, by name."""
    living, promised = capacity.shares(session)
    query = select(
        Host.name,
        Host.state,
        Host.heartbeat_at,
        Host.labels,
        Host.guest_memory_bytes,
        Host.guest_disk_bytes,
        alive(ours).label("alive"),
    ).order_by(Host.name)
    found = {}
    for row in session.execute(query):
        here, coming = (each.get(row.name, capacity.Share()) for each in (living, promised))
        found[row.name] = Room(
            name=row.name,
            state=row.state,
            alive=row.alive,
            heartbeat_at=row.heartbeat_at,
            labels=row.labels,
            memory=Use(used=here.memory_bytes, promised=coming.memory_bytes, limit=row.guest_memory_bytes),
            disk=Use(
                used=here.disk_bytes,
                promised=coming.disk_bytes,
                limit=row.guest_disk_bytes,
                unwritten=here.unwritten_bytes + coming.unwritten_bytes,
            ),
        )
    _settle(session, found)
    return [room for room in found.values() if room.alive or room.state is not HostState.FORGOTTEN]


def _settle(session: Session, rooms: dict[str, Room]) -> None:
    moves = {move.guest: move for move in moves_of(session)}
    living = select(Guest.host, Guest.name, Guest.memory_bytes, Guest.disk_bytes, Guest.labels, Guest.gone_at)
    for row in session.execute(living.order_by(Guest.name)):
        resident = Resident(
            name=row.name,
            move=moves.get(row.name),
            memory_bytes=row.memory_bytes,
            disk_bytes=row.disk_bytes,
            labels=row.labels,
            gone_at=row.gone_at,
        )
        rooms[row.host].guests.append(resident)
    at_home = {guest.name: room.name for room in rooms.values() for guest in room.guests}
    for move in moves.values():
        if at_home.get(move.guest) != move.destination:
            rooms[move.destination].arriving.append(move)


def moves_of(session: Session) -> list[Move]:
    """The jobs that have not ended, by number."""
    columns = (Job.id, Job.guest, Job.source, Job.destination, Job.state, Job.hold, Job.seed)
    return [
        Move(
            job_id=row.id,
            guest=row.guest,
            source=row.source,
            destination=row.destination,
            state=row.state,
            held=row.hold or row.seed,
        )
        for row in session.execute(select(*columns).where(unfinished()).order_by(Job.id))
    ]


def counts(rooms: Sequence[Room]) -> dict[str, int]:
    """{condition: rooms in which it holds}."""
    found: dict[str, int] = defaultdict(int)
    for room in rooms:
        for condition in room.conditions:
            found[condition] += 1
    return {name: found[name] for name in CONDITIONS}


def version(session: Session, ours: Settings) -> str:
    """Differs whenever rooms look different. Cheap: no rows leave the database."""
    hosts = select(_digest(Host.name, Host.name, Host.state, alive(ours)))
    seen = (func.count(), func.max(Guest.adopted_at), func.max(Guest.moved_at), func.count(Guest.gone_at))
    guests = select(func.concat_ws(",", *seen))
    jobs = select(_digest(Job.id, Job.id, Job.state, Job.hold, Job.seed, Job.wait_reason)).where(unfinished())
    return str(session.execute(select(*(query.scalar_subquery() for query in (hosts, guests, jobs)))).one())


def _digest(order: Any, *columns: Any) -> Any:
    """Of all rows; their order in the table changes with every heartbeat."""
    return func.md5(func.string_agg(func.concat_ws(",", *columns), aggregate_order_by(literal(";"), order)))
