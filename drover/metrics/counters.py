"""What has ended: counters and histograms over jobs and tries at steps."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

from prometheus_client.core import Metric
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from drover.metrics import families
from drover.metrics.builders import Histogram, Labels
from models.job import Attempt, Disk, Job, JobState, Step

STEP_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 43200)
DOWNTIME_BUCKETS_S = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
SETTLED = timedelta(hours=1)
"""What ended this long ago is recorded by now: a time is read before its transaction commits."""


class Ended:
    """All that has ended. What is settled is counted once; only what ended since is counted at each look."""

    def __init__(self) -> None:
        self.settled = Totals()
        self.until: datetime | None = None

    def metrics(self, session: Session, now: datetime) -> list[Metric]:
        """The sums as metrics."""
        settled, until = deepcopy(self.settled), now - SETTLED
        settled.add(session, self.until, until)
        recent = deepcopy(settled)
        recent.add(session, until, None)
        self.settled, self.until = settled, until  # not before all went well
        return list(recent.metrics())


class Totals:
    """Sums over jobs and tries at steps, as counters and histograms need them."""

    def __init__(self) -> None:
        self.steps: dict[Labels, Histogram] = defaultdict(lambda: Histogram(STEP_BUCKETS_S))
        self.jobs: Counter[Labels] = Counter()
        self.bytes: Counter[Labels] = Counter()
        self.downtime = Histogram(DOWNTIME_BUCKETS_S)

    def add(self, session: Session, after: datetime | None, until: datetime | None) -> None:
        """What ended in that time; None: since ever, or to this day."""
        tries = _within(Attempt.ended_at, after, until)
        for *labels, bucket, count, total in session.execute(_ended_steps(tries)):
            self.steps[tuple(map(str, labels))].add(bucket, count, float(total))
        # a job that needs an operator goes on some day: counted now, it would be taken back then
        jobs = [Job.state.in_((JobState.DONE, JobState.ROLLED_BACK)), *_within(Job.finished_at, after, until)]
        for state, count, disks, ram in session.execute(_ended_jobs(jobs)):
            self.jobs[state.value,] += count
            self.bytes["disks",] += int(disks or 0)
            self.bytes["ram",] += int(ram or 0)
        for bucket, count, total in session.execute(_downtimes(jobs)):
            self.downtime.add(bucket, count, float(total))

    def metrics(self) -> Iterator[Metric]:
        """The sums as metrics."""
        yield families.STEP_DURATION.of(self.steps)
        yield families.JOBS_ENDED.of(self.jobs)
        yield families.MOVED_BYTES.of(self.bytes)
        yield families.DOWNTIME.of({(): self.downtime})


def _bucket(seconds: ColumnElement[float], bounds: Sequence[float]) -> ColumnElement[int]:
    return func.width_bucket(seconds, array([float(bound) for bound in bounds]))


def _within(ended_at: Any, after: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    limits: list[ColumnElement[bool]] = [ended_at.is_not(None)]
    if after is not None:
        limits.append(ended_at > after)
    if until is not None:
        limits.append(ended_at <= until)
    return limits


def _ended_steps(when: Iterable[ColumnElement[bool]]) -> Any:
    seconds = func.date_part("epoch", Attempt.ended_at - Attempt.started_at)
    labels = (Step.name, Step.side, Attempt.direction, Attempt.outcome, _bucket(seconds, STEP_BUCKETS_S))
    joined = (Step.job_id == Attempt.job_id) & (Step.seq == Attempt.seq)
    return select(*labels, func.count(), func.sum(seconds)).join(Step, joined).where(*when).group_by(*labels)


def _ended_jobs(when: Iterable[ColumnElement[bool]]) -> Any:
    disks = select(func.sum(Disk.bytes_copied)).where(Disk.job_id == Job.id).scalar_subquery()
    ram = Job.ram["transferred"].as_numeric(20, 0)
    return select(Job.state, func.count(), func.sum(disks), func.sum(ram)).where(*when).group_by(Job.state)


def _downtimes(when: Iterable[ColumnElement[bool]]) -> Any:
    seconds = Job.downtime["ms"].as_float() / 1000
    bucket = _bucket(seconds, DOWNTIME_BUCKETS_S)
    done = (Job.state == JobState.DONE, seconds.is_not(None))
    return select(bucket, func.count(), func.sum(seconds)).where(*when, *done).group_by(bucket)
