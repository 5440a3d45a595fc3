"""How long moves take, by what earlier ones took; before there were any, by an assumption, which is shown."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import func, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from models.fleet import Limits
from models.job import Disk, Job, JobState, Side, Step
from workflows.capacity import Size, Slots
from workflows.drain.placement import Placement
from workflows.migration.chain import StepName

NEWEST = 50
"""How many earlier moves an estimate uses."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speeds that an estimate assumes."""

    disk_bytes_per_s: float = 100e6
    ram_bytes_per_s: float = 100e6
    fixed_s: float = 5.0
    """Of each move, whatever its size."""
    moves: int = 0
    """How many moves these figures are from; 0: they are assumed."""

    def disks_s(self, size: Size) -> float:
        """Until both sides are equal, in seconds."""
        return size.disk_bytes / self.disk_bytes_per_s

    def switch_s(self, size: Size) -> float:
        """The rest, when the disks are in sync."""
        return size.memory_bytes / self.ram_bytes_per_s + self.fixed_s

    def move_s(self, size: Size) -> float:
        """All of it."""
        return self.disks_s(size) + self.switch_s(size)

    def needs_s(self, size: Size, seeded: bool) -> float:
        """What has to fit into a window: all of it, or what is left when the disks are copied ahead."""
        return self.switch_s(size) if seeded else self.move_s(size)


def speed(session: Session) -> Speed:
    """What the newest moves took, over all hosts."""
    rows = session.execute(_newest()).all()
    if not rows:
        return Speed()
    disk_s = [_seconds(row.copied_at, row.copy_at) for row in rows]
    ram_s = [_seconds(row.sent_at, row.send_at) for row in rows]
    rest = [_seconds(row.finished_at, row.started_at) - _seconds(row.sent_at, row.copy_at) for row in rows]
    return Speed(
        disk_bytes_per_s=sum(int(row.disk_bytes) for row in rows) / sum(disk_s),
        ram_bytes_per_s=sum(_sent(row.ram) for row in rows) / sum(ram_s) or Speed.ram_bytes_per_s,
        fixed_s=max(median(rest), 0.0),
        moves=len(rows),
    )


def _newest() -> Any:
    """Of each move when its copy and its RAM were begun and complete; waiting for a release counts to neither."""
    copying, sending = (
        select(Step).where(Step.name == name, Step.side == Side.SOURCE).subquery()
        for name in (StepName.AWAIT_SYNC.value, StepName.MIGRATE_RAM.value)
    )
    disks = (
        select(Disk.job_id, func.sum(Disk.bytes_total).label("bytes"), func.max(Disk.ready_at).label("ready_at"))
        .group_by(Disk.job_id)
        .subquery()
    )
    return (
        select(
            Job.started_at,
            Job.finished_at,
            type_coerce(Job.ram, JSONB).label("ram"),
            disks.c.bytes.label("disk_bytes"),
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


def _sent(ram: object) -> int:
    """Bytes of RAM, by what a move has noted; one malformed record must not break every estimate."""
    total = ram.get("total") if isinstance(ram, dict) else None
    return total if isinstance(total, int) else 0


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
                heapq.heappush(under_way, (at + speed.move_s(placement.candidate.size), len(made) - 1))
        if not under_way:  # the limits let nothing begin: what waits has no time
            break
        at, _ = heapq.heappop(under_way)
    return at
