"""Moves and rolls over time: which part took place when. No I/O but for `of_drain`."""

import enum
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import selectinload

from drover.views import queries
from drover.views.drain_queries import DrainShot, Row
from drover.views.rolls import HostRow, RollShot
from models.database import transaction
from models.documents import Window
from models.drain import GuestState
from models.job import Attempt, Job, JobState, Side
from models.transitions import Direction
from workflows import schedule
from workflows.migration.links import StepName

Span = tuple[datetime, datetime]
MOST_WINDOWS = 60
"""Of one timeline: two months of nights."""


class Part(enum.StrEnum):
    """What a move, or a roll with one host, does at a time."""

    PREPARATION = "preparation"
    COPY = "copy"
    IN_SYNC = "in sync"
    RAM = "RAM"
    REST = "rest"
    ROLLBACK = "rollback"
    DRAIN = "drain"
    HOOK = "hook"
    COMING_BACK = "coming back"
    RETURN = "return"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One part, until it ended or until now."""

    part: Part
    begun: datetime
    ended: datetime


@dataclass(frozen=True, kw_only=True)
class Line:
    """One move, or one host of a roll."""

    bars: Sequence[Bar]
    paused_at: datetime | None = None
    """When the guest was paused for its switchover."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Of time."""

    begins: datetime
    ends: datetime

    def place(self, at: datetime, width: float = 1000.0) -> float:
        """Where a moment is on an axis of this width."""
        whole = (self.ends - self.begins).total_seconds() or 1.0
        return round(max(0.0, min(1.0, (at - self.begins).total_seconds() / whole)) * width, 2)


About = TypeVar("About")


@dataclass(frozen=True, kw_only=True)
class Timeline(Axis, Generic[About]):
    """Lines over one axis."""

    now: datetime
    windows: Sequence[Span]
    lines: Sequence[tuple[About, Line, Span | None]]
    """Of each guest or host what was, and when the rest is expected."""


def line(job: Job, tries: Sequence[Attempt], now: datetime) -> Line:
    """One job that has its steps and disks, with all attempts at those."""
    return Line(bars=_bars(_starts(job, tries), job.finished_at or now), paused_at=_stopped_at(job))


def _stopped_at(job: Job) -> datetime | None:
    """When QEMU paused the guest for the switchover."""
    stopped = job.downtime.stopped_at if job.downtime is not None else None
    return datetime.fromtimestamp(stopped, UTC) if stopped is not None else None


def _bars(begun: Iterable[tuple[Part, datetime | None]], until: datetime) -> list[Bar]:
    """Each part until the next one began; None: it has not."""
    starts = [(part, at) for part, at in begun if at is not None]
    ends = [*(at for _, at in starts[1:]), until]
    return [
        Bar(part=part, begun=begun, ended=ended)
        for (part, begun), ended in zip(starts, ends, strict=False)  # with no start there is no end either
        if ended > begun
    ]


def _starts(job: Job, tries: Sequence[Attempt]) -> Iterator[tuple[Part, datetime | None]]:
    """When each part began, in their order; None: it has not."""
    yield Part.PREPARATION, job.started_at
    ready = [disk.ready_at for disk in job.disks]
    in_sync = max((at for at in ready if at is not None), default=None) if None not in ready else None
    back = job.state in {JobState.ROLLING_BACK, JobState.ROLLED_BACK}
    turned = _first(each for each in tries if back and each.direction == Direction.ROLLBACK)
    yield Part.COPY, _begun(job, StepName.MIRROR_DISKS, tries)
    yield Part.IN_SYNC, in_sync
    yield Part.RAM, _begun(job, StepName.MIGRATE_RAM, tries)
    stopped = _stopped_at(job)
    if turned is None:
        gone = stopped is not None and job.committed_at is not None
        yield Part.REST, stopped if gone else _begun(job, StepName.CLEANUP, tries)
    yield Part.ROLLBACK, turned


def _begun(job: Job, name: StepName, tries: Sequence[Attempt]) -> datetime | None:
    """When this step at the source was begun: the times in a step itself are those of its rollback once that began."""
    at_source = {step.seq for step in job.steps if step.name == name and step.side is Side.SOURCE}
    return _first(each for each in tries if each.seq in at_source and each.direction == Direction.DO)


def _first(tries: Iterable[Attempt]) -> datetime | None:
    return min((each.started_at for each in tries), default=None)


def of_drain(shot: DrainShot) -> Timeline[Row]:
    """All guests of a drain whose moves have begun, and its windows until all will have moved."""
    begins = shot.drain.started_at or shot.drain.created_at
    forecasts = _forecasts(shot)
    last = max((ends for _, ends in forecasts.values()), default=shot.at)
    ends = max(shot.drain.finished_at or last, begins + timedelta(seconds=1))
    numbers = [row.job.id for row in shot.rows if row.job is not None]
    jobs, tries = _with_steps(numbers), queries.attempts(numbers)
    lines = [(row, line(jobs[row.job.id], tries[row.job.id], shot.at) if row.job else NOTHING) for row in shot.rows]
    return Timeline(
        begins=begins,
        ends=ends,
        now=shot.at,
        windows=list(_windows(shot.drain.window, begins, ends)),
        lines=[(row, made, forecasts.get(row.guest.guest)) for row, made in lines],
    )


NOTHING = Line(bars=())


def of_job(job: Job, now: datetime) -> Timeline[Job]:
    """One job that has its steps and disks."""
    begins = job.started_at or job.created_at
    ends = max(job.finished_at or now, begins + timedelta(seconds=1))
    return Timeline(begins=begins, ends=ends, now=now, windows=list(_windows(job.window, begins, ends)), lines=[])


def of_roll(shot: RollShot) -> Timeline[HostRow]:
    """All hosts of a roll."""
    begins = shot.roll.created_at
    ends = max(shot.roll.finished_at or shot.at, begins + timedelta(seconds=1))
    lines = [(row, Line(bars=_bars(_turns(row), _over_at(row, ends))), None) for row in shot.rows]
    return Timeline(begins=begins, ends=ends, now=shot.at, windows=[], lines=lines)


def _turns(row: HostRow) -> Iterator[tuple[Part, datetime | None]]:
    """When each part began with a host, in their order; None: it has not."""
    yield Part.DRAIN, row.drain.created_at if row.drain else None
    yield Part.HOOK, row.run.asked_at if row.run else None
    yield Part.COMING_BACK, row.run.ended_at if row.run else None
    yield Part.RETURN, row.homecoming.created_at if row.homecoming else None


def _over_at(row: HostRow, ends: datetime) -> datetime:
    return row.host.since if row.host.state.ended else ends


def _with_steps(numbers: Sequence[int]) -> dict[int, Job]:
    wanted = (
        select(Job)
        .where(Job.id.in_(numbers))
        .options(*queries.PUBLIC, selectinload(Job.disks), selectinload(Job.steps))
    )
    with transaction() as session:
        return {job.id: job for job in session.scalars(wanted)}


def _windows(window: Window | None, begins: datetime, ends: datetime) -> Iterator[Span]:
    if window is None:
        return
    allowed, at = schedule.Window.of(window), begins
    for _ in range(MOST_WINDOWS):
        opens, closes = allowed.at_or_after(at)
        if opens >= ends:
            return
        yield max(opens, begins), min(closes, ends)
        at = closes


def _forecasts(shot: DrainShot) -> dict[str, Span]:
    """{guest: when the rest of its move is expected}, each as soon as one before it has ended. No I/O."""
    left = [(row.guest.state is not GuestState.MOVING, row.guest.guest, row.eta_s) for row in shot.rows]
    free = [shot.at] * shot.max_outgoing
    found = {}
    for _, guest, eta_s in sorted(left, key=lambda each: each[0]):
        if eta_s is not None and not shot.ended:
            begins = heapq.heappop(free)
            found[guest] = (begins, begins + timedelta(seconds=eta_s))
            heapq.heappush(free, found[guest][1])
    return found
