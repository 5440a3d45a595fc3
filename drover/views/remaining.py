"""How long a job that is under way still takes: by its estimate until there is something to measure. No I/O."""

from datetime import datetime

from models.documents import Estimate
from models.job import Job, JobState, Side
from workflows import estimate
from workflows.migration.links import StepName

LEAST_S = 0.5
"""While it goes on."""
MEASURED_S = 3.0
"""A copy that is younger says nothing about its rate."""


def left_s(job: Job, at: datetime) -> float | None:
    """Seconds until its end, once it goes on; None: it has ended, is rolled back, or nothing is known of it."""
    left = _left_s(job, at)
    return None if left is None else min(left, estimate.LONGEST_S)


def _left_s(job: Job, at: datetime) -> float | None:
    if job.estimate is None or job.state not in {JobState.QUEUED, JobState.RUNNING}:
        return None
    expected = _by_the_limit_now(job, job.estimate)
    if job.started_at is None:
        return expected.total_s
    since = (at - job.started_at).total_seconds()
    begun = copied_since(job)
    if begun is None:
        return max(expected.total_s - since, expected.copy_s + expected.ram_s)
    before_s = (begun - job.started_at).total_seconds()
    rest_s = max(expected.switch_s - expected.ram_s - before_s, LEAST_S)
    if not job.disks or not all(disk.ready_at for disk in job.disks):
        return _copy_left_s(job, expected, begun, at) + expected.ram_s + rest_s
    sending = job.ram is not None and job.ram.total > 0
    return (_ram_left_s(job, expected) if sending else expected.ram_s) + _rest_left_s(job, rest_s, at)


def _by_the_limit_now(job: Job, expected: Estimate) -> Estimate:
    """When it was submitted the budget was shared with fewer moves or more, or the job had another limit."""
    limit = 0 if job.pace is None else job.pace.copied_under_per_s
    if not limit or limit == expected.limit_bytes_per_s:
        return expected
    ram_s = _ram_s(expected, limit)
    return expected.model_copy(
        update={
            "last_stretch_s": estimate.last_stretch_s(limit, expected.dirtied_per_s),
            "ram_s": ram_s,
            "switch_s": expected.switch_s - expected.ram_s + ram_s,
        }
    )


def _ram_s(expected: Estimate, limit_per_s: int) -> float:
    if not expected.ram_s or not expected.ram_bytes:
        return expected.ram_s
    rate, former = expected.ram_bytes / expected.ram_s, expected.limit_bytes_per_s
    if former and limit_per_s > former:
        return expected.ram_bytes / min(rate * limit_per_s / former, max(rate, expected.link_bytes_per_s))
    return expected.ram_bytes / min(rate, limit_per_s)


def copied_since(job: Job) -> datetime | None:
    """When the copy of its disks began; None: it has not."""
    return _begun(job, StepName.AWAIT_SYNC) or _begun(job, StepName.MIRROR_DISKS)


def copy_s(job: Job) -> float | None:
    """How long the copy took; None: it is not over."""
    begun, ready = copied_since(job), [disk.ready_at for disk in job.disks]
    known = [moment for moment in ready if moment is not None]
    if begun is None or not known or len(known) < len(ready):
        return None
    return max((max(known) - begun).total_seconds(), 0.0)


def _copy_left_s(job: Job, expected: Estimate, begun: datetime, at: datetime) -> float:
    """By the rate since its beginning, as of when bytes were last seen to move. That of a limited copy is what it was
    during the last seconds: it begins slowly.
    """
    seen_at = max(job.progress_at or at, begun)
    took_s, silent_s = (seen_at - begun).total_seconds(), max((at - seen_at).total_seconds(), 0.0)
    done, left = sum(disk.bytes_done for disk in job.disks), sum(disk.bytes_left for disk in job.disks)
    if not done or took_s < MEASURED_S:
        return max(expected.copy_s - (at - begun).total_seconds(), 0.0)
    rate, pace = done / took_s, job.pace
    if pace is not None and pace.limit_per_s:
        rate = max(rate, min(pace.copied_per_s, pace.limit_per_s))
    return max(left / rate - silent_s, 0.0) + expected.last_stretch_s


def _ram_left_s(job: Job, expected: Estimate) -> float:
    if job.ram is None or not job.ram.bytes_per_s or job.committed_at is not None:
        return 0.0 if job.committed_at is not None else expected.ram_s
    return job.ram.remaining / job.ram.bytes_per_s


def _rest_left_s(job: Job, rest_s: float, at: datetime) -> float:
    crossed = job.committed_at
    return rest_s if crossed is None else max(rest_s - (at - crossed).total_seconds(), LEAST_S)


def _begun(job: Job, name: StepName) -> datetime | None:
    return next((step.started_at for step in job.steps if (step.name, step.side) == (name, Side.SOURCE)), None)
