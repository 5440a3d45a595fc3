"""How long moves take: by what earlier ones took, by the limit that will hold, and by what there is to copy.

One estimate for all who ask: dry run, plan, drains, windows and live views. Before there were moves it is an
assumption, which is shown.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy import func, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from models.documents import Estimate, MigrationOptions
from models.fleet import Limits
from models.job import Disk, Job, JobState, Side, Step
from workflows import budgets
from workflows.budgets import Budgets
from workflows.capacity import Size, Slots
from workflows.drain.placement import Placement
from workflows.migration.chain import StepName

NEWEST = 50
"""How many earlier moves an estimate uses."""
HALF_LIFE_S = 7 * 86400.0
"""A move that is older by this counts half as much: links and storages change."""
THROTTLED = 0.6
"""A move that had this part of its limit, or more, was slowed down by it: it says nothing about the link."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Between which hosts a move goes, and what was asked for it."""

    source: str = ""
    destination: str = ""
    asked_bytes_per_s: int = 0
    """0: what the budgets allow."""

    @classmethod
    def of(cls, source: str, destination: str, options: MigrationOptions) -> "Way":
        """The way of a job."""
        return cls(source=source, destination=destination, asked_bytes_per_s=options.bandwidth_bytes_per_s)


ANY = Way()
"""Nothing is known of it."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speeds that an estimate assumes."""

    disk_bytes_per_s: float = 100e6
    """Over all hosts."""
    ram_bytes_per_s: float = 100e6
    sent_part: float = 1.0
    """What part of its RAM a guest sends: pages of zeroes hardly count, those that it writes anew count again."""
    fixed_s: float = 5.0
    """Of each move, whatever its size."""
    moves: int = 0
    """How many moves these figures are from; 0: they are assumed."""
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """{(source, destination): bytes per second of disks}, where moves were made between them."""
    budgets: Budgets = field(default_factory=Budgets)
    """The budgets."""

    def link_per_s(self, way: Way) -> float:
        """What the disks get between these hosts without a limit."""
        return self.pairs.get((way.source, way.destination), self.disk_bytes_per_s)

    def limit_per_s(self, way: Way) -> int:
        """What the move may take, in bytes per second; 0: no limit."""
        held = [rate for rate in (way.asked_bytes_per_s, self.budgets.lowest(way.source, way.destination)) if rate]
        return min(held, default=0)

    def disks_s(self, size: Size, way: Way = ANY) -> float:
        """Until both sides are equal, in seconds. A limit counts holes like data, for QEMU mirrors them like that."""
        unlimited, limit = size.written_bytes / self.link_per_s(way), self.limit_per_s(way)
        return max(unlimited, size.disk_bytes / limit) if limit else unlimited

    def switch_s(self, size: Size, way: Way = ANY) -> float:
        """The rest, when the disks are in sync."""
        unlimited, limit = size.memory_bytes / self.ram_bytes_per_s, self.limit_per_s(way)
        sent = size.memory_bytes * self.sent_part
        return (max(unlimited, sent / limit) if limit else unlimited) + self.fixed_s

    def move_s(self, size: Size, way: Way = ANY) -> float:
        """All of it."""
        return self.disks_s(size, way) + self.switch_s(size, way)

    def needs_s(self, size: Size, seeded: bool, way: Way = ANY) -> float:
        """What has to fit into a window: all of it, or what is left when the disks are copied ahead."""
        return self.switch_s(size, way) if seeded else self.move_s(size, way)

    def estimate(self, size: Size, way: Way) -> Estimate:
        """The estimate of a move, as a job keeps it."""
        return Estimate(
            copy_s=round(self.disks_s(size, way), 1),
            switch_s=round(self.switch_s(size, way), 1),
            copy_bytes=size.written_bytes,
            link_bytes_per_s=round(self.link_per_s(way), 1),
            limit_bytes_per_s=self.limit_per_s(way),
            moves=self.moves,
        )


def basis(moves: int) -> str:
    """What the figures are from, for people; `moves` as in `Speed`."""
    if not moves:
        return "assuming 100 MB/s, because nothing was moved yet"
    return "by the last move" if moves == 1 else f"by the last {moves} moves"


@dataclass(frozen=True, kw_only=True)
class _Move:
    """What one earlier move took."""

    pair: tuple[str, str]
    weight: float
    bytes: int
    disks_s: float
    says_nothing: bool
    """Of the rate of disks: it had a limit, or only what had changed was sent."""
    ram_bytes: int
    ram_s: float
    sent_bytes: int
    rest_s: float


def speed(session: Session) -> Speed:
    """What the newest moves took, and the limits as they are now."""
    now_allowed = budgets.current(session)
    rows = session.execute(_newest()).all()
    if not rows:
        return Speed(budgets=now_allowed)
    moves = [_move(row, rows[0].finished_at, now_allowed.lowest(row.source, row.destination)) for row in rows]
    ram_s, ram = sum(one.weight * one.ram_s for one in moves), sum(one.weight * one.ram_bytes for one in moves)
    sent = sum(one.weight * one.sent_bytes for one in moves)
    return Speed(
        disk_bytes_per_s=_rate(moves) or Speed.disk_bytes_per_s,
        ram_bytes_per_s=ram / ram_s or Speed.ram_bytes_per_s,
        sent_part=sent / ram if ram and sent else 1.0,
        fixed_s=max(median(one.rest_s for one in moves), 0.0),
        moves=len(rows),
        pairs={pair: rate for pair in {one.pair for one in moves} if (rate := _rate(moves, pair))},
        budgets=now_allowed,
    )


def _rate(moves: Iterable[_Move], pair: tuple[str, str] | None = None) -> float | None:
    """Of the link, in bytes per second, by the moves that had all of it; None if there were none."""
    free = [one for one in moves if not one.says_nothing and pair in {None, one.pair}]
    return sum(one.weight * one.bytes for one in free) / sum(one.weight * one.disks_s for one in free) if free else None


def _move(row: Any, newest: datetime, budget: int) -> _Move:
    disks_s = _seconds(row.copied_at, row.copy_at)
    limit = row.options.bandwidth_bytes_per_s or budget
    written = sum(_count(disk, "allocated_bytes", "virtual_size_bytes") for disk in row.planned or [])
    return _Move(
        pair=(row.source, row.destination),
        weight=0.5 ** (max((newest - row.finished_at).total_seconds(), 0.0) / HALF_LIFE_S),
        bytes=written or int(row.disk_bytes),
        disks_s=disks_s,
        says_nothing=row.ways_back > 0 or (bool(limit) and int(row.disk_bytes) / disks_s >= THROTTLED * limit),
        ram_bytes=_count(row.ram, "total"),
        ram_s=_seconds(row.sent_at, row.send_at),
        sent_bytes=_count(row.ram, "transferred"),
        rest_s=_seconds(row.finished_at, row.started_at) - _seconds(row.sent_at, row.copy_at),
    )


def _newest() -> Any:
    """Of each move when its copy and its RAM were begun and complete; waiting for a release counts to neither."""
    copying, sending = (
        select(Step).where(Step.name == name, Step.side == Side.SOURCE).subquery()
        for name in (StepName.AWAIT_SYNC.value, StepName.MIGRATE_RAM.value)
    )
    disks = (
        select(
            Disk.job_id,
            func.sum(Disk.bytes_total).label("bytes"),
            func.max(Disk.ready_at).label("ready_at"),
            func.count(Disk.delta_bytes).label("ways_back"),
        )
        .group_by(Disk.job_id)
        .subquery()
    )
    return (
        select(
            Job.source,
            Job.destination,
            Job.options,
            Job.started_at,
            Job.finished_at,
            type_coerce(Job.ram, JSONB).label("ram"),
            type_coerce(Job.plan, JSONB)["source"]["disks"].label("planned"),
            disks.c.bytes.label("disk_bytes"),
            disks.c.ways_back,
            copying.c.started_at.label("copy_at"),
            disks.c.ready_at.label("copied_at"),
            sending.c.started_at.label("send_at"),
            sending.c.finished_at.label("sent_at"),
        )
        .join(copying, copying.c.job_id == Job.id)
        .join(sending, sending.c.job_id == Job.id)
        .join(disks, disks.c.job_id == Job.id)
        .where(Job.state == JobState.DONE, disks.c.ready_at.is_not(None), sending.c.finished_at.is_not(None))
        .order_by(Job.id.desc())
        .limit(NEWEST)
    )


def _count(document: object, *names: str) -> int:
    """The first of these numbers that is there; one malformed record must not break every estimate."""
    told = [document.get(name) for name in names] if isinstance(document, dict) else []
    return next((one for one in told if isinstance(one, int)), 0)


def _seconds(end: Any, begin: Any) -> float:
    return max((end - begin).total_seconds(), 0.001) if end and begin else 0.001


def total_s(placements: Iterable[Placement], speed: Speed, limits: Limits) -> float:
    """How long all of it takes if each move begins as soon as the limits let it. No I/O."""
    waiting, under_way = list(placements), list[tuple[float, int]]()
    at, made = 0.0, dict[int, Placement]()
    while waiting or under_way:
        slots = Slots(limits=limits)
        for _, number in under_way:
            slots.reserve(made[number].candidate.source, made[number].destination)
        for placement in list(waiting):
            if slots.lacking(placement.candidate.source, placement.destination) is None:
                waiting.remove(placement)
                slots.reserve(placement.candidate.source, placement.destination)
                made[len(made)] = placement
                takes = speed.move_s(placement.candidate.size, way_of(placement))
                heapq.heappush(under_way, (at + takes, len(made) - 1))
        if not under_way:  # the limits let nothing begin: what waits has no time
            break
        at, _ = heapq.heappop(under_way)
    return at


def way_of(placement: Placement) -> Way:
    """The way of a guest that a drain moves."""
    guest = placement.candidate
    return Way(source=guest.source, destination=placement.destination, asked_bytes_per_s=guest.asked_bytes_per_s)
