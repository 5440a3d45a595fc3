"""Who goes where: pure, so that a dry run, a drain and a test get the same answer from the same numbers.

Guests are taken in order of priority, then of size, largest first; guests of one affinity group as one. Each goes
to the host that was planned for it before, if that still takes it, else to where its group is, else to the one with
the most memory left: so the load is spread. Where that leaves guests over, filling hosts up one after the other is
tried as well.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from models.activity import Activity
from workflows.capacity import Room, Size


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A guest to be moved."""

    name: str
    source: str
    size: Size
    activity: Activity | None = None
    """What it writes and changes of its RAM."""
    priority: int = 0
    affinity: str | None = None
    anti_affinity: str | None = None
    preferred: str | None = None
    """Where it was planned to go before, or where it is at home."""
    refused_by: Mapping[str, str] = field(default_factory=dict)
    """{host: why}: destinations that refused the guest or to which its move failed."""
    only: str | None = None
    """By its drain's plan it goes there or nowhere."""
    turn: int = 0
    """By its drain's plan."""
    asked_bytes_per_s: int = 0
    """The limit of its move; 0: what the budgets allow."""
    promised: bool = False
    """It has its place at `preferred` already, and is counted before all others."""

    @property
    def bytes(self) -> int:
        """What has to be copied."""
        return self.size.disk_bytes + self.size.memory_bytes


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A guest that is, or will be, on a host and stays there."""

    host: str
    affinity: str | None = None
    anti_affinity: str | None = None


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A guest and its destination; the order of a plan's placements is that of the moves."""

    candidate: Candidate
    destination: str
    why: str = ""
    """Why there, in a few words."""


@dataclass(frozen=True, kw_only=True)
class DrainPlan:
    """Who goes where, and who stays and why: {guest: sentence}."""

    placements: tuple[Placement, ...]
    left: dict[str, str]


BY_PLAN = "the plan sends it elsewhere"
Unit = Sequence[Candidate]
"""Guests that go to one host together; mostly one."""
Rule = Callable[[Room], float]


def spread(room: Room) -> float:
    """The host with the most memory left comes first."""
    return -room.memory_bytes


def fill(room: Room) -> float:
    """The host with the least memory left comes first."""
    return room.memory_bytes


def plan(
    candidates: Iterable[Candidate],
    rooms: Mapping[str, Room],
    residents: Iterable[Resident],
    *,
    to: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> DrainPlan:
    """Find a destination for every guest that has one. No I/O.

    `to` names the only hosts that may be used, none is all of them; `exclude` those that may not.
    """
    units = _units(candidates)
    allowed = [host for host in sorted(rooms) if host in (set(to) or rooms) and host not in set(exclude)]
    present, free = list(residents), {host: rooms[host] for host in allowed}
    made = _place(units, free, present, spread)
    return min(made, _place(units, free, present, fill), key=lambda made: len(made.left)) if made.left else made


def _units(candidates: Iterable[Candidate]) -> list[Unit]:
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in sorted(candidates, key=_turn):
        in_group = candidate.affinity and candidate.only is None  # a plan may send its guests to several hosts
        key = ("group", str(candidate.affinity)) if in_group else ("guest", candidate.name)
        groups.setdefault(key, []).append(candidate)
    return sorted(
        groups.values(), key=lambda unit: (*_turn(unit[0])[:3], -sum(one.bytes for one in unit), unit[0].name)
    )


def _turn(one: Candidate) -> tuple[bool, int, int, int, str]:
    return not one.promised, one.turn, -one.priority, -one.bytes, one.name


def _place(units: Iterable[Unit], rooms: Mapping[str, Room], residents: list[Resident], rule: Rule) -> DrainPlan:
    rooms, residents = {host: replace(room) for host, room in rooms.items()}, list(residents)
    placements: list[Placement] = []
    left: dict[str, str] = {}
    for unit in units:
        obstacles = {host: why for host, room in rooms.items() if (why := _obstacle(unit, room, residents))}
        suitable = [room for host, room in rooms.items() if host not in obstacles]
        if not suitable:
            left |= {candidate.name: _sentence(candidate, obstacles) for candidate in unit}
            continue
        chosen = min(suitable, key=lambda room: (*_preference(unit, room, residents), rule(room), room.host))
        why = _reason(unit, chosen, residents, rule)
        for candidate in unit:
            chosen.reserve(candidate.size)
            residents.append(
                Resident(host=chosen.host, affinity=candidate.affinity, anti_affinity=candidate.anti_affinity)
            )
            placements.append(Placement(candidate=candidate, destination=chosen.host, why=why))
    return DrainPlan(placements=tuple(placements), left=left)


def _preference(unit: Unit, room: Room, residents: Iterable[Resident]) -> tuple[bool, bool]:
    """What comes before the rule, false first: planned before, and where the group is."""
    planned = any(candidate.preferred == room.host for candidate in unit)
    mates = any(one.affinity and one.affinity == unit[0].affinity and one.host == room.host for one in residents)
    return not planned, not mates


def _reason(unit: Unit, chosen: Room, residents: Iterable[Resident], rule: Rule) -> str:
    elsewhere, apart_from_its_group = _preference(unit, chosen, residents)
    if not elsewhere:
        return "it was planned for it"
    if not apart_from_its_group:
        return f"its group {unit[0].affinity!r} is there"
    return "it has the most memory left" if rule is spread else "it is filled up, so that nobody is left over"


def _obstacle(unit: Unit, room: Room, residents: Iterable[Resident]) -> str | None:
    """Why a host cannot take these guests, in words."""
    if any(candidate.only not in {None, room.host} for candidate in unit):
        return BY_PLAN
    if room.closed_because:
        return room.closed_because
    if room.silent and not any(candidate.preferred == room.host for candidate in unit):
        return room.silence  # what was planned for it waits for it
    for candidate in unit:
        if candidate.source == room.host:
            return f"it is on {room.host} already"
        if room.host in candidate.refused_by:
            return candidate.refused_by[room.host]
    groups = [candidate.anti_affinity for candidate in unit if candidate.anti_affinity]
    groups += [
        one.anti_affinity
        for one in residents
        if one.host == room.host and one.anti_affinity in groups and one.anti_affinity
    ]
    if len(groups) > len(set(groups)):
        return f"{room.host} has a guest of the group {groups[-1]!r}, which are to be kept apart"
    return room.lacks(_sum(unit))


def _sum(unit: Unit) -> Size:
    sizes = [candidate.size for candidate in unit]
    return Size(
        cpus=sum(size.cpus for size in sizes),
        memory_bytes=sum(size.memory_bytes for size in sizes),
        disk_bytes=sum(size.written_bytes + size.unwritten_bytes for size in sizes),
        allocated_bytes=sum(size.written_bytes for size in sizes),
    )


def _sentence(candidate: Candidate, obstacles: Mapping[str, str]) -> str:
    against = {host: why for host, why in obstacles.items() if host != candidate.source and why != BY_PLAN}
    why = "; ".join(dict.fromkeys(against.values())) or "there is no other host to choose from"
    if candidate.only is not None:
        return f"by the plan it goes to {candidate.only} or nowhere: {why}"
    return f"no host takes it: {why}"
