"""What hosts have left for guests and which moves are under way: read in SQL, once for a round of decisions.

Admission and the planner decide by the same numbers. They count what was promised (to guests that live on a host or are
on their way to it, against what its guests may have together), not what is free at the moment: two moves that begin
together would both find the same free memory. The destination itself is asked about that beforehand. Of a disk counts
what it takes now, and of the rest the part that its storage's thin factor says.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Select, exists, func, literal, not_, or_, select, union_all
from sqlalchemy.orm import Session, aliased

from drover import words
from drover.settings import Settings
from models import fleet, kept_images, storage
from models.drain import UNDER_WAY, Drain, DrainGuest, GuestState
from models.fleet import FleetLimits, Limits
from models.guest import Guest
from models.host import Host, HostState
from models.job import Disk, Job, JobState
from models.storage import Storage
from models.transitions import BEGUN, FINISHED, GOING_ON
from workflows.presence import alive, listed

UNLIMITED = float("inf")
AMOUNTS = ("cpus", "memory_bytes", "disk_bytes")
TAKEN = (*AMOUNTS, "unwritten_bytes")
CLOSED = {
    HostState.ACTIVE: None,
    HostState.CORDONED: "it is cordoned",
    HostState.MAINTENANCE: "it is in maintenance",
    HostState.FORGOTTEN: "it was forgotten",
}


def one_more(limit: str, now: int) -> str:
    """The command that lets one more begin than there are now."""
    return f"`drover fleet set {limit}={now + 1}` lets another begin"


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a guest takes of its host."""

    cpus: int
    memory_bytes: int
    disk_bytes: int
    allocated_bytes: int | None = None
    """What its images take now; None: not known, so all of `disk_bytes` counts."""

    @classmethod
    def of(cls, guest: Guest) -> "Size":
        """A guest's, as its host saw it last."""
        return cls(
            cpus=guest.cpus,
            memory_bytes=guest.memory_bytes,
            disk_bytes=guest.disk_bytes,
            allocated_bytes=None if guest.allocated_bytes is None else guest.allocated_bytes + guest.device_bytes,
        )

    @property
    def written_bytes(self) -> int:
        """What its images take for certain."""
        return self.disk_bytes if self.allocated_bytes is None else self.allocated_bytes

    @property
    def unwritten_bytes(self) -> int:
        """What they may take one day."""
        return max(self.disk_bytes - self.written_bytes, 0)


@dataclass(kw_only=True)
class Room:
    """What one host has left. Negative where more was promised than there is."""

    host: str
    closed: str | None = None
    """Why it takes no guest, by an operator's setting."""
    silent: bool = False
    """Its worker sent no heartbeat lately."""
    lost: bool = False
    """Its heartbeat is older than `host_patience`."""
    cpus: float = UNLIMITED
    memory_bytes: float = UNLIMITED
    disk_bytes: float = UNLIMITED
    """After what all images take for certain."""
    unwritten_bytes: float = 0
    """What those images may take one day."""
    thin_factor: float = 1.0
    """The part of that which counts is 1 / this, see `models.storage.counted_bytes`."""

    @property
    def closed_because(self) -> str | None:
        """Why it takes no guest at all; None if it does, or may again in a moment."""
        return self.closed_by_operator or (self.silence if self.lost else None)

    @property
    def closed_by_operator(self) -> str | None:
        """Why it takes no guest whoever is there; None if it does."""
        opens = f"`drover host uncordon {self.host}` opens it"
        return self.closed and f"{self.host} takes no guest: {self.closed} ({opens})"

    @property
    def silence(self) -> str:
        """What is said of it while its worker sends no heartbeats."""
        return f"{self.host} is silent (is its worker down?): start it there"

    def lacks(self, size: Size, thin_factor: float | None = None) -> str | None:
        """Which resource is short, as a sentence; None if the guest fits. The factor is that of this move alone."""
        if size.memory_bytes > self.memory_bytes:
            return self._short(size.memory_bytes, self.memory_bytes, "memory") + self._more_by("GUEST_MEMORY_BYTES")
        factor = thin_factor or self.thin_factor
        needed = size.written_bytes + size.unwritten_bytes / factor
        left = self.disk_bytes - self.unwritten_bytes / factor
        if needed > left:
            return self._short(needed, left, "disk") + self._remedy(size, factor)
        if size.cpus > self.cpus:
            left_cpus = words.count(round(max(self.cpus, 0)), "CPU")
            return f"{self.host} has {left_cpus} left for guests, {size.cpus} needed" + self._more_by("GUEST_CPUS")
        return None

    def _short(self, needed: float, left: float, what: str) -> str:
        missing = words.size(needed - max(left, 0))
        return f"{self.host} has {words.size(left)} of {what} left for guests, {missing} too little"

    def _more_by(self, setting: str) -> str:
        return f" (move a guest away from it, or raise DROVER_{setting} there)"

    def _remedy(self, size: Size, factor: float) -> str:
        """A greater factor helps only where what is written for certain fits."""
        if size.written_bytes > self.disk_bytes or not (size.unwritten_bytes or self.unwritten_bytes):
            return self._more_by("GUEST_DISK_BYTES")
        return (
            f" (what thin disks have not written counts with 1/{factor:g} of it: `--thin-factor` of the move, or "
            f"`drover storage set {self.host} {storage.GUESTS} --thin-factor N`, over-commits it further)"
        )

    def reserve(self, size: Size) -> None:
        """Count a guest in."""
        self.cpus -= size.cpus
        self.memory_bytes -= size.memory_bytes
        self.disk_bytes -= size.written_bytes
        self.unwritten_bytes += size.unwritten_bytes


@dataclass(kw_only=True)
class Slots:
    """The moves under way, against the limits."""

    limits: Limits
    outgoing: dict[str, int] = field(default_factory=dict)
    incoming: dict[str, int] = field(default_factory=dict)
    overall: int = 0

    def lacking(self, source: str, destination: str) -> str | None:
        """Which limit is reached, as a sentence; None if another move may begin."""
        leaving, arriving = self.outgoing.get(source, 0), self.incoming.get(destination, 0)
        limits = self.limits
        if leaving >= limits.max_outgoing:
            already = f"{words.count(leaving, 'move leaves', 'moves leave')} {source} already"
            return f"{already}, {limits.max_outgoing} may at a time: {one_more('max-outgoing', leaving)}"
        if arriving >= limits.max_incoming:
            already = f"{words.count(arriving, 'move goes', 'moves go')} to {destination} already"
            return f"{already}, {limits.max_incoming} may at a time: {one_more('max-incoming', arriving)}"
        if self.overall >= limits.max_moves:
            already = f"{words.count(self.overall, 'move is', 'moves are')} under way already"
            return f"{already}, {limits.max_moves} may be at a time: {one_more('max-moves', self.overall)}"
        return None

    def reserve(self, source: str, destination: str) -> None:
        """Count a move in."""
        self.outgoing[source] = self.outgoing.get(source, 0) + 1
        self.incoming[destination] = self.incoming.get(destination, 0) + 1
        self.overall += 1


def rooms(session: Session, ours: Settings, *, planning: Collection[str] | None = None) -> dict[str, Room]:
    """What every host has left, by name.

    A planner names the guests that it plans. Then what is planned for other guests counts as well, so that concurrent
    drains do not all choose the same hosts.
    """
    promised = [] if planning is None else [_queued(planning), _planned(planning)]
    each = union_all(_living(), _arriving(), _set_aside(planning or ()), *promised).subquery()
    amounts = [func.sum(each.c[name]).label(name) for name in TAKEN]
    taken = select(each.c.host, *amounts).group_by(each.c.host).subquery()
    cpus, memory, disk, unwritten = (func.coalesce(taken.c[name], 0) for name in TAKEN)
    query = select(
        Host.name,
        Host.state,
        alive(ours).label("alive"),
        (Host.heartbeat_at < func.clock_timestamp() - fleet.value(FleetLimits.host_patience)).label("lost"),
        (Host.guest_cpus - cpus).label("cpus"),
        (Host.guest_memory_bytes - memory).label("memory_bytes"),
        (Host.guest_disk_bytes - disk).label("disk_bytes"),
        unwritten.label("unwritten_bytes"),
        func.coalesce(Storage.thin_factor, storage.THIN_FACTOR).label("thin_factor"),
    )
    query = query.outerjoin(taken, taken.c.host == Host.name)
    query = query.outerjoin(Storage, (Storage.host == Host.name) & (Storage.name == storage.GUESTS))
    return {row.name: _room(row) for row in session.execute(query.where(listed(ours)))}


@dataclass(frozen=True, kw_only=True)
class Share:
    """What guests take of a host. In bytes."""

    memory_bytes: int = 0
    disk_bytes: int = 0
    """What their images take for certain."""
    unwritten_bytes: int = 0
    """What thin images may take one day."""


def shares(session: Session) -> tuple[dict[str, Share], dict[str, Share]]:
    """{host: what those that live there take}, and {host: what is promised to others, or still kept}."""
    return _shares(session, _living()), _shares(session, union_all(_arriving(), _set_aside()))


def _shares(session: Session, taken: Select[Any, int, int, int, int] | CompoundSelect[Any]) -> dict[str, Share]:
    each = taken.subquery()
    names = [field.name for field in fields(Share)]
    query = select(each.c.host, *(func.sum(each.c[name]).label(name) for name in names)).group_by(each.c.host)
    return {row.host: Share(**{name: int(getattr(row, name)) for name in names}) for row in session.execute(query)}


def _room(row: Any) -> Room:
    left = {name: getattr(row, name) for name in AMOUNTS}
    return Room(
        host=row.name,
        closed=CLOSED[row.state],
        silent=not row.alive,
        lost=row.lost,
        unwritten_bytes=float(row.unwritten_bytes),
        thin_factor=row.thin_factor,
        **{name: UNLIMITED if n is None else float(n) for name, n in left.items()},
    )


def _taken_by_guest(host: Any, devices: Any = Guest.device_bytes) -> Select[Any, int, int, int, int]:
    """On the host in this column: what its images take for certain, and what they may take one day.

    What `devices` there may take counts as well: nobody knows here whether they become files.
    """
    files = Guest.disk_bytes - Guest.device_bytes
    written = func.coalesce(Guest.allocated_bytes, files) + devices
    unwritten = func.greatest(files + devices - written, 0)
    return select(
        host.label("host"),
        Guest.cpus,
        Guest.memory_bytes,
        written.label("disk_bytes"),
        unwritten.label("unwritten_bytes"),
    )


def _living() -> Select[Any, int, int, int, int]:
    return _taken_by_guest(Guest.host, devices=literal(0)).where(Guest.gone_at.is_(None))


def _arriving() -> Select[Any, int, int, int, int]:
    moving = _taken_by_guest(Job.destination).join(Guest, Guest.name == Job.guest)
    return moving.where(Job.state.in_(BEGUN), Guest.host != Job.destination)


def _queued(but_for: Collection[str]) -> Select[Any, int, int, int, int]:
    waiting = _taken_by_guest(Job.destination).join(Guest, Guest.name == Job.guest)
    return waiting.where(Job.state == JobState.QUEUED, Guest.name.not_in(but_for))


def _planned(but_for: Collection[str]) -> Select[Any, int, int, int, int]:
    """Guests that wait for their turn in a drain."""
    planned = _taken_by_guest(DrainGuest.destination).join(Guest, Guest.name == DrainGuest.guest).join(Drain)
    return planned.where(
        DrainGuest.state == GuestState.WAITING,
        DrainGuest.destination.is_not(None),
        Drain.state.in_(UNDER_WAY),
        Guest.name.not_in(but_for),
    )


def _set_aside(planning: Collection[str] = ()) -> Select[Any, int, int, int, int]:
    """Images that were left behind and are still kept; not those of guests that go back to them, or may, nor copies of
    moves that were rolled back, which give way.
    """
    kept, back = func.coalesce(Disk.retired_bytes, Disk.bytes_total), aliased(Job)
    moves_back = exists().where(back.guest == Job.guest, back.destination == Job.source, back.state.not_in(FINISHED))
    waits = exists().where(
        DrainGuest.guest == Job.guest, DrainGuest.destination == Job.source, DrainGuest.state == GuestState.WAITING
    )
    return (
        select(Job.source, literal(0), literal(0), kept, literal(0))
        .join(Disk)
        .where(Disk.retired_until.is_not(None), ~kept_images.is_copy(), ~moves_back, ~waits)
        .where(Job.guest.not_in(planning))
    )


def slots(session: Session, limits: Limits) -> Slots:
    """The moves that count against the limits."""
    found = Slots(limits=limits)
    query = select(Job.source, Job.destination).where(Job.state.in_(GOING_ON), not_(or_(parked(), _stalled())))
    for source, destination in session.execute(query):
        found.reserve(source, destination)
    return found


def held_per_host(session: Session) -> dict[str, int]:
    """{host: moves that leave it and have begun, but whose RAM must not follow yet}."""
    query = (
        select(Job.source, func.count().label("moves"))
        .where(Job.state == JobState.RUNNING, or_(Job.hold, Job.seed))
        .group_by(Job.source)
    )
    return {row.source: row.moves for row in session.execute(query)}


def parked() -> ColumnElement[bool]:
    """Both sides are equal and kept so until the job is released, or its window opens."""
    return or_(Job.hold, Job.seed) & ~exists().where(Disk.job_id == Job.id, Disk.ready_at.is_(None))


def _stalled() -> ColumnElement[bool]:
    last = func.coalesce(Job.progress_at, Job.started_at)
    return last < func.clock_timestamp() - fleet.value(FleetLimits.stalled_after)
