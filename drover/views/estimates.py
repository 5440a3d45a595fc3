"""What was expected of a move, how fast it goes, and how long it still takes."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from drover.views.drain_queries import DrainShot
from drover.views.remaining import copied_since
from drover.words import count
from models.database import transaction
from models.drain import DrainGuest
from models.guest import Guest
from models.job import Job, JobState
from workflows import estimate
from workflows.capacity import Size


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How long a move takes, in seconds."""

    total_s: float
    basis: str
    """From what it was made."""


def of_job(job: Job) -> Estimate | None:
    """The one of its submission; of a job of Drover 0.1 that of its drain, or one by the newest moves.

    None of a guest that is not known any more.
    """
    if job.estimate is not None:
        return Estimate(total_s=job.estimate.total_s, basis=_basis(job.estimate.moves))
    with transaction() as session:
        if job.drain_id is not None:
            planned = session.get(DrainGuest, (job.drain_id, job.guest))
            if planned is not None and planned.estimate_s is not None:
                return Estimate(total_s=planned.estimate_s, basis="when its drain was planned")
        guest = session.scalar(select(Guest).where(Guest.name == job.guest))
        if guest is None:
            return None
        speed = estimate.speed(session)
    return Estimate(total_s=speed.of().move_s(Size.of(guest)), basis=_basis(speed.moves))


def _basis(moves: int) -> str:
    return f"by the last {count(moves, 'move')}" if moves else "by assumed speeds: nothing has moved yet"


def copy_rate(job: Job, now: datetime) -> float | None:
    """Bytes of its disks per second, as a mean since the copy began; None before that, or once it is over."""
    begun = copied_since(job)
    if begun is None or job.state is not JobState.RUNNING or all(disk.ready_at for disk in job.disks):
        return None
    return sum(disk.bytes_copied for disk in job.disks) / max((now - begun).total_seconds(), 1.0)


def copy_limit(job: Job) -> int:
    """What it may take now, in bytes per second; 0: there is no limit, or its copy has not begun."""
    return 0 if job.pace is None else job.pace.limit_per_s


def drain_rate(shot: DrainShot) -> float | None:
    """Likewise of all moves of a drain whose copies are under way."""
    return sum(copy_rate(job, shot.at) or 0.0 for job in _copying(shot)) or None


def drain_limit(shot: DrainShot) -> int:
    """What they may take together; 0: one of them has no limit."""
    limits = [copy_limit(job) for job in _copying(shot)]
    return sum(limits) if all(limits) else 0


def _copying(shot: DrainShot) -> list[Job]:
    return [row.job for row in shot.rows if row.job is not None and copy_rate(row.job, shot.at) is not None]
