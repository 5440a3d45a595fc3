"""How long moves take: by what earlier ones took, by the limit that will hold, and by what there is to copy.

One estimate for all who ask: dry run, plan, drains, windows and live views. Before there were moves it is an
assumption, which is shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import median, median_low
from typing import Any

from sqlalchemy import func, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from drover import words
from models.activity import Activity
from models.columns import MOST
from models.documents import Estimate, MigrationOptions
from models.fleet import SLOWEST_BYTES_PER_S
from models.guest import Guest
from models.job import Disk, Job, JobState, Side, Step
from workflows import budgets
from workflows.budgets import Budgets, Move
from workflows.capacity import Size
from workflows.migration.links import StepName

NEWEST = 50
"""How many earlier moves an estimate uses."""
HALF_LIFE_S = 7 * 86400.0
"""A move that is older by this counts half as much: links and storages change."""
THROTTLED = 0.6
"""A move that had this part of its limit, or more, was slowed down by it: it says nothing about the link."""
TELLING_S = 60.0
"""Nor does one under a limit that was shorter: its beginning and its last stretch are too much of it."""
NEWEST_OF_GUEST = 5
"""How many of a guest's own moves say what it is like."""
LONGEST_S = 366 * 86400.0
"""For nothing takes longer: hosts write the times, and no date could be told of what follows from them."""
SEEN_WITHIN_S = 3.0
"""That its disks are in sync is seen within this time; a job that waits longer was held."""
LAST_STRETCH_S = 5.5
"""For no longer a limited copy goes on after all was copied once: by then the limit is lifted, see
`workers.disks.mirrors.Bandwidth` (5.2 to 6.3 s, QEMU 10.0).
"""
SLOWEST_PART = 0.1
"""Of its limit, for a guest that writes as fast as may be copied."""
MOST_AGAIN = 0.75
"""Of what is sent of RAM, at most so much is sent again: then QEMU slows the guest down."""
NOT_YET = 0
"""The number of a job that does not exist yet."""


@dataclass(frozen=True, kw_only=True)
class Way(Move):
    """Who moves between which hosts, what was asked for the move, and what the guest does meanwhile."""

    guest: str = ""
    activity: Activity | None = None
    """None: nobody has looked."""

    @classmethod
    def of(cls, guest: Guest, destination: str, options: MigrationOptions) -> "Way":
        """The way of a guest from where it lives."""
        return cls(
            source=guest.host,
            destination=destination,
            guest=guest.name,
            asked_bytes_per_s=options.bandwidth_bytes_per_s,
            activity=guest.activity,
        )

    @property
    def written_per_s(self) -> float:
        """What the guest writes to its disks, in bytes per second, as far as is known."""
        return self.activity.written_per_s if self.activity is not None else 0.0

    @property
    def dirtied_per_s(self) -> float:
        """What of its disks has to be sent again because of that."""
        return self.activity.dirtied_per_s if self.activity is not None else 0.0

    @property
    def dirty_per_s(self) -> float:
        """Likewise what it changes of its RAM."""
        return (self.activity.dirty_per_s or 0.0) if self.activity is not None else 0.0

    @property
    def changes_ram(self) -> bool:
        """Its pause is longer than that of a guest that rests: there is always something left to send."""
        return self.dirty_per_s > 0


ANY = Way(source="", destination="")
"""Nothing is known of it."""


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What the last moves of one guest were like."""

    sent_bytes: float
    """Of its RAM, pages that it had changed meanwhile counted again."""
    downtimes_ms: Sequence[float]
    """Of those whose switchover said it."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speeds that an estimate assumes."""

    disk_bytes_per_s: float = 100e6
    """Over all hosts."""
    ram_bytes_per_s: float = 100e6
    sent_part: float = 1.0
    """What part of its RAM a guest that rests sends: pages of zeroes hardly count."""
    fixed_s: float = 5.0
    """Of each move, whatever its size."""
    downtimes_ms: Mapping[bool, float] = field(default_factory=dict)
    """{whether it changes its RAM: that of a guest that was never moved}, where such guests were moved."""
    moves: int = 0
    """How many moves these figures are from; 0: they are assumed."""
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """{(source, destination): bytes per second of disks}, where moves were made between them."""
    guests: Mapping[str, Habits] = field(default_factory=dict)
    """By their names, those that were moved lately."""
    budgets: Budgets = field(default_factory=Budgets)
    """The budgets."""
    under_way: Mapping[int, Move] = field(default_factory=dict)
    """The moves with which another one has to share them."""

    def link_per_s(self, way: Way) -> float:
        """What the disks get between these hosts without a limit."""
        return self.pairs.get((way.source, way.destination), self.disk_bytes_per_s)

    def ram_caught_up_per_s(self, way: Way, limit_per_s: int) -> float:
        """At what rate both sides' RAM gets equal. What changes meanwhile is sent again, pass by pass; where the guest
        was moved before, that is part of what it sends.
        """
        sent_per_s = within(self.ram_bytes_per_s, limit_per_s)
        return sent_per_s if way.guest in self.guests else sent_per_s * (1 - sent_again(way.dirty_per_s, sent_per_s))

    def of(self, way: Way = ANY) -> "MoveSpeed":
        """Those of one move, with its share of the budgets beside what is under way."""
        limit = self.budgets.shares({**self.under_way, NOT_YET: way})[NOT_YET]
        return MoveSpeed(speed=self, way=way, limit_per_s=limit)


@dataclass(frozen=True, kw_only=True)
class MoveSpeed:
    """The speeds that an estimate of one move assumes, and how long it takes by them."""

    speed: Speed
    way: Way
    limit_per_s: int
    """What it may take, in bytes per second; 0: no limit."""

    @property
    def link_per_s(self) -> float:
        """What its disks get without a limit."""
        return self.speed.link_per_s(self.way)

    @property
    def ram_per_s(self) -> float:
        """What its RAM gets."""
        return within(self.speed.ram_bytes_per_s, self.limit_per_s)

    def disks_s(self, size: Size) -> float:
        """Until both sides are equal, in seconds. A limit leaves holes out, as the link does."""
        return size.written_bytes / copied_per_s(self.link_per_s, self.limit_per_s, self.way) + self.last_stretch_s

    @property
    def last_stretch_s(self) -> float:
        """How much longer its copy takes because its guest writes all the time."""
        return last_stretch_s(self.limit_per_s, self.way.dirtied_per_s)

    @property
    def _habits(self) -> Habits | None:
        return self.speed.guests.get(self.way.guest)

    def ram_bytes(self, size: Size) -> float:
        """What is sent of the guest's RAM: as much as the last times, or what is sent of that of others."""
        own = self._habits
        return own.sent_bytes if own is not None and own.sent_bytes else size.memory_bytes * self.speed.sent_part

    def ram_s(self, size: Size) -> float:
        """Until what is left of the RAM is sent in the pause."""
        return self.ram_bytes(size) / self.speed.ram_caught_up_per_s(self.way, self.limit_per_s)

    def switch_s(self, size: Size) -> float:
        """The rest, when the disks are in sync."""
        return self.ram_s(size) + self.speed.fixed_s

    def move_s(self, size: Size) -> float:
        """All of it."""
        return self.disks_s(size) + self.switch_s(size)

    def needs_s(self, size: Size, *, seeded: bool) -> float:
        """What has to fit into a window: all of it, or what is left when the disks are copied ahead."""
        return self.switch_s(size) if seeded else self.move_s(size)

    @property
    def pause_ms(self) -> float | None:
        """How long the guest will stand still: as the last times, or as others like it did; None: not known.

        Those of others count as one of its own, for a single one says little: a busy machine lengthens it.
        """
        known = list(self._habits.downtimes_ms) if self._habits is not None else []
        others = self.speed.downtimes_ms
        alike = others.get(self.way.changes_ram, others.get(not self.way.changes_ram))
        return _typical_ms(known if alike is None else [*known, alike])

    @property
    def never(self) -> str | None:
        """Why the move would not come to its end by itself, as a sentence; None: it would."""
        link = within(self.link_per_s, self.limit_per_s)
        if self.way.written_per_s >= link:
            return (
                f"it writes {words.rate(self.way.written_per_s)} to its disks and {words.rate(link)} can be copied: "
                "they are never in sync unless it writes less or the move may send more"
            )
        if self.way.dirty_per_s >= self.ram_per_s:
            return (
                f"it changes {words.rate(self.way.dirty_per_s)} of its RAM and {words.rate(self.ram_per_s)} can be "
                "sent: QEMU will slow it down, and an operator may be asked for a longer pause"
            )
        return None

    def estimate(self, size: Size) -> Estimate:
        """The estimate of the move, as a job keeps it."""
        return Estimate(
            copy_s=round(self.disks_s(size), 1),
            switch_s=round(self.switch_s(size), 1),
            copy_bytes=size.written_bytes,
            last_stretch_s=round(self.last_stretch_s, 1),
            dirtied_per_s=round(self.way.dirtied_per_s, 1),
            ram_bytes=round(self.ram_bytes(size)),
            ram_s=round(self.ram_s(size), 1),
            link_bytes_per_s=round(self.link_per_s, 1),
            limit_bytes_per_s=self.limit_per_s,
            downtime_ms=None if self.pause_ms is None else round(self.pause_ms, 1),
            never=self.never,
            moves=self.speed.moves,
        )


def basis(moves: int) -> str:
    """What the figures are from, for people; `moves` as in `Speed`."""
    if not moves:
        return "assuming 100 MB/s, because nothing was moved yet"
    return "by the last move" if moves == 1 else f"by the last {moves} moves"


def within(rate_per_s: float, limit_per_s: float) -> float:
    """A rate under a limit, both in bytes per second; a limit of 0 is none."""
    return min(rate_per_s, limit_per_s) if limit_per_s else rate_per_s


def sent_again(dirty_per_s: float, rate_per_s: float) -> float:
    """What part of all that is sent of a guest's RAM was sent before and has changed since."""
    return min(dirty_per_s / rate_per_s, MOST_AGAIN)


def copied_per_s(link_per_s: float, limit_per_s: float, way: Way) -> float:
    """At what rate the disks get equal. Under a limit what the guest writes anew is sent instead of something else;
    without one it is part of what the link was measured with.
    """
    if not limit_per_s:
        return link_per_s
    return max(min(link_per_s, limit_per_s - way.written_per_s), SLOWEST_PART * limit_per_s)


def last_stretch_s(limit_per_s: int, dirtied_per_s: float) -> float:
    """How much longer a limited copy takes of disks that are written all the time: each pass sends what was written
    during the one before, until nothing was, or the limit is lifted.

    As if the second pass sent what is written in a second. Measured where 4 KiB each were written at random (QEMU
    10.0): 0.1 s with half of the limit dirtied, 3 s with 0.78 of it.
    """
    if not limit_per_s:
        return 0.0
    part = dirtied_per_s / limit_per_s
    return min(part / (1 - part), LAST_STRETCH_S) if part < 1 else LAST_STRETCH_S


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """What one earlier move took."""

    guest: str
    pair: tuple[str, str]
    weight: float
    limit_per_s: int
    """Its share while it was copied, as its worker recorded it; of an earlier version what would be its limit now."""
    copied_bytes: int
    copy_s: float
    only_changes: bool
    """It went back to images that the guest had left behind."""
    total_bytes: int
    """Of its RAM; likewise what was sent of it."""
    sent_bytes: int
    measured_per_s: int
    """At what rate QEMU sent it at the end; 0: it was too short."""
    dirty_per_s: float
    """What the guest changed of it per second, as it was looked at before."""
    ram_s: float
    rest_s: float
    """All but copying disks and sending RAM, and without waiting for a release."""
    downtime_ms: float | None

    @property
    def measures_the_link(self) -> bool:
        """It had all that the link gives."""
        return not self.only_changes and not self._throttled(self.copied_bytes, self.copy_s)

    @property
    def measures_ram(self) -> bool:
        """Likewise of its RAM."""
        return not self._throttled(self.sent_bytes, self.ram_s)

    def _throttled(self, amount: int, seconds: float) -> bool:
        limit = self.limit_per_s
        return limit > 0 and (seconds < TELLING_S or amount >= THROTTLED * limit * seconds)

    def once_bytes(self, ram_bytes_per_s: float) -> float:
        """What would have been sent of its RAM if it had changed none meanwhile."""
        return self.sent_bytes * (1 - sent_again(self.dirty_per_s, self._sent_per_s(ram_bytes_per_s)))

    def fixed_s(self, ram_bytes_per_s: float) -> float:
        """What it took whatever its size."""
        return self.rest_s + max(self.ram_s - self.sent_bytes / self._sent_per_s(ram_bytes_per_s), 0.0)

    def _sent_per_s(self, ram_bytes_per_s: float) -> float:
        """At what rate its RAM was sent: as QEMU measured it, for its share of the budgets may have changed."""
        return self.measured_per_s or within(ram_bytes_per_s, self.limit_per_s)


def speed(session: Session) -> Speed:
    """What the newest moves took, and the limits as they are now."""
    allowed = budgets.current(session)
    rows = session.execute(_newest()).all()
    if not rows:
        return Speed(budgets=allowed)
    moves = [_moved(row, rows[0].finished_at, allowed.lowest(row.source, row.destination)) for row in rows]
    ram = _rate((one.weight, one.sent_bytes, one.ram_s) for one in moves if one.measures_ram) or Speed.ram_bytes_per_s
    total = sum(one.weight * one.total_bytes for one in moves)
    return Speed(
        disk_bytes_per_s=_link(moves) or Speed.disk_bytes_per_s,
        ram_bytes_per_s=ram,
        sent_part=sum(one.weight * one.once_bytes(ram) for one in moves) / total if total else 1.0,
        fixed_s=max(median(one.fixed_s(ram) for one in moves), 0.0),
        downtimes_ms=_downtimes_ms(moves),
        moves=len(rows),
        pairs={pair: rate for pair in {one.pair for one in moves} if (rate := _link(moves, pair))},
        guests={guest: _habits(guest, moves) for guest in {one.guest for one in moves}},
        budgets=allowed,
    )


def among(session: Session, speed: Speed) -> Speed:
    """The same with what is under way: a move that begins now shares the budgets with that."""
    return replace(speed, under_way=budgets.under_way(session))


def _link(moves: Iterable[_Moved], pair: tuple[str, str] | None = None) -> float | None:
    """Of the link, in bytes per second, by the moves that had all of it; None if there were none."""
    return _rate(
        (one.weight, one.copied_bytes, one.copy_s)
        for one in moves
        if one.measures_the_link and pair in {None, one.pair}
    )


def _rate(measured: Iterable[tuple[float, int, float]]) -> float | None:
    """From (weight, bytes, seconds): a line through zero, so that large ones count, whose beginning weighs little."""
    known = list(measured)
    seconds = sum(weight * amount * took_s for weight, amount, took_s in known)
    rate = sum(weight * amount * amount for weight, amount, _ in known) / seconds if seconds else None
    return None if rate is None else max(rate, SLOWEST_BYTES_PER_S)


def _habits(guest: str, moves: Sequence[_Moved]) -> Habits:
    own = [one for one in moves if one.guest == guest][:NEWEST_OF_GUEST]
    return Habits(
        sent_bytes=median(one.sent_bytes for one in own),
        downtimes_ms=_told_ms(own),
    )


def _downtimes_ms(moves: Sequence[_Moved]) -> dict[bool, float]:
    found = {}
    for changes in (False, True):
        typical = _typical_ms(_told_ms(one for one in moves if (one.dirty_per_s > 0) is changes))
        if typical is not None:
            found[changes] = typical
    return found


def _told_ms(moves: Iterable[_Moved]) -> list[float]:
    """Of those whose switchover said how long the guest stood still."""
    return [one.downtime_ms for one in moves if one.downtime_ms is not None]


def _typical_ms(known: Sequence[float]) -> float | None:
    """The lower median: what disturbs a switchover makes it longer, never shorter."""
    return median_low(known) if known else None


def _moved(row: Any, newest: datetime, budget: int) -> _Moved:
    copy_s, ram_s, held_s = _seconds(row.copied_at, row.copy_at), _seconds(row.sent_at, row.send_at), 0.0
    if (waited_s := _seconds(row.sync_ended_at, row.copied_at)) > SEEN_WITHIN_S:
        held_s = waited_s
    planned = sum(_count(disk, "allocated_bytes", "virtual_size_bytes") for disk in row.planned or [])
    total = _count(row.ram, "total")
    return _Moved(
        guest=row.guest,
        pair=(row.source, row.destination),
        weight=0.5 ** (max((newest - row.finished_at).total_seconds(), 0.0) / HALF_LIFE_S),
        limit_per_s=_limit(row.pace, row.options.bandwidth_bytes_per_s, budget),
        copied_bytes=planned or int(row.disk_bytes),
        copy_s=copy_s,
        only_changes=row.ways_back > 0,
        total_bytes=total,
        sent_bytes=_count(row.ram, "transferred") or total,
        measured_per_s=_count(row.ram, "bytes_per_s"),
        dirty_per_s=row.dirty_per_s or 0.0,
        ram_s=ram_s,
        rest_s=_seconds(row.finished_at, row.started_at) - copy_s - ram_s - held_s,
        downtime_ms=row.downtime_ms,
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
            Job.guest,
            Job.source,
            Job.destination,
            Job.options,
            Job.started_at,
            Job.finished_at,
            type_coerce(Job.ram, JSONB).label("ram"),
            type_coerce(Job.pace, JSONB).label("pace"),
            type_coerce(Job.plan, JSONB)["destination"]["disks"].label("planned"),
            type_coerce(Job.plan, JSONB)["source"]["activity"]["dirty_per_s"].as_float().label("dirty_per_s"),
            disks.c.bytes.label("disk_bytes"),
            disks.c.ways_back,
            Job.downtime["ms"].as_float().label("downtime_ms"),
            copying.c.started_at.label("copy_at"),
            copying.c.finished_at.label("sync_ended_at"),
            disks.c.ready_at.label("copied_at"),
            sending.c.started_at.label("send_at"),
            sending.c.finished_at.label("sent_at"),
        )
        .join(copying, copying.c.job_id == Job.id)
        .join(sending, sending.c.job_id == Job.id)
        .join(disks, disks.c.job_id == Job.id)
        .where(Job.state == JobState.DONE, Job.finished_at.is_not(None))
        .where(disks.c.ready_at.is_not(None), sending.c.finished_at.is_not(None))
        .order_by(Job.id.desc())
        .limit(NEWEST)
    )


def _count(document: object, *names: str) -> int:
    """The first of these numbers that is there; one malformed record must not break every estimate."""
    told = [document.get(name) for name in names] if isinstance(document, dict) else []
    return next((one for one in told if isinstance(one, int) and 0 <= one <= MOST), 0)


def _limit(pace: object, asked: int, budget: int) -> int:
    """Under which a move was made, in bytes per second; 0: none. That of a budget only if it was recorded."""
    recorded = isinstance(pace, dict) and "copied_under_per_s" in pace
    otherwise = 0 if recorded else _count(pace, "limit_per_s") or budget
    return _count(pace, "copied_under_per_s") or asked or otherwise


def _seconds(end: Any, begin: Any) -> float:
    return min(max((end - begin).total_seconds(), 0.001), LONGEST_S) if end and begin else 0.001
