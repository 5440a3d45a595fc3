"""What moves took and how they ended: by day, host, guest or label."""

import enum
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Text, cast, func, select, true, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from models.base import Document
from models.guest import Guest
from models.job import Disk, Job, JobState


class By(enum.StrEnum):
    """What moves are grouped by."""

    DAY = "day"
    SOURCE = "source"
    DESTINATION = "destination"
    GUEST = "guest"
    LABEL = "label"  # of the guest as it is now: a move is in as many groups as that has labels


LABELS = func.jsonb_each_text(type_coerce(Guest.labels, JSONB)).table_valued("key", "value", name="label")
KEYS: dict[By, Any] = {
    By.DAY: cast(func.date(func.timezone("UTC", Job.finished_at)), Text),
    By.SOURCE: Job.source,
    By.DESTINATION: Job.destination,
    By.GUEST: Job.guest,
    By.LABEL: func.concat_ws("=", LABELS.c.key, func.nullif(LABELS.c.value, "")),
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Moves that have ended. A figure is None where nothing was measured."""

    key: str
    done: int
    rolled_back: int
    success: float
    """From 0 to 1."""
    downtime_ms_median: float | None
    downtime_ms_p95: float | None
    total_s_median: float | None
    bytes_moved: int
    bytes_per_s: float | None
    """All bytes of disks, by all time that the moves took."""

    def document(self) -> Document:
        """As JSON, and as one line of CSV."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


FIELDS = [field.name for field in fields(Group)]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which moves, and how they are grouped."""

    by: By = By.DAY
    since: timedelta = timedelta(days=30)
    guest: str | None = None
    host: str | None = None
    """Source or destination."""


def groups(session: Session, wanted: Wanted, limit: int = 1000) -> list[Group]:
    """The newest day first; else those with most moves first. Refused jobs, which never began, do not count."""
    key = KEYS[wanted.by].label("key")
    disks = select(func.sum(Disk.bytes_copied)).where(Disk.job_id == Job.id).correlate(Job).scalar_subquery()
    moves = (
        select(
            key,
            (Job.state == JobState.DONE).label("done"),
            Job.downtime["ms"].as_float().label("downtime_ms"),
            func.date_part("epoch", Job.finished_at - Job.started_at).label("total_s"),
            func.coalesce(disks, 0).label("bytes"),
        )
        .select_from(Job)
        .where(*_conditions(wanted))
    )
    if wanted.by is By.LABEL:
        moves = moves.join(Guest, Guest.name == Job.guest).join(LABELS, true())
    each = moves.subquery()
    done = each.c.done
    order = each.c.key.desc() if wanted.by is By.DAY else func.count().desc()
    query = (
        select(
            each.c.key,
            func.count().filter(done).label("done"),
            func.count().filter(~done).label("rolled_back"),
            _percentile(0.5, each.c.downtime_ms).label("downtime_ms_median"),
            _percentile(0.95, each.c.downtime_ms).label("downtime_ms_p95"),
            _percentile(0.5, each.c.total_s, done).label("total_s_median"),
            func.sum(each.c.bytes).filter(done).label("bytes"),
            func.sum(each.c.total_s).filter(done).label("total_s"),
        )
        .group_by(each.c.key)
        .order_by(order, each.c.key)
        .limit(limit)
    )
    return [_group(row) for row in session.execute(query)]


def _percentile(fraction: float, column: Any, condition: Any = None) -> Any:
    found = func.percentile_cont(fraction).within_group(column)
    return found if condition is None else found.filter(condition)


def _conditions(wanted: Wanted) -> list[Any]:
    ended: datetime | Any = func.now() - wanted.since
    found = [
        Job.state.in_((JobState.DONE, JobState.ROLLED_BACK)),
        Job.started_at.is_not(None),
        Job.finished_at >= ended,
    ]
    if wanted.guest:
        found.append(Job.guest == wanted.guest)
    if wanted.host:
        found.append((Job.source == wanted.host) | (Job.destination == wanted.host))
    return found


def _group(row: Any) -> Group:
    moved, took = int(row.bytes or 0), float(row.total_s or 0)
    return Group(
        key=row.key,
        done=row.done,
        rolled_back=row.rolled_back,
        success=row.done / (row.done + row.rolled_back),
        downtime_ms_median=row.downtime_ms_median,
        downtime_ms_p95=row.downtime_ms_p95,
        total_s_median=row.total_s_median,
        bytes_moved=moved,
        bytes_per_s=moved / took if took else None,
    )
