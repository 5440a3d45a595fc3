"""What Prometheus is told of the fleet, read from the database and the broker each time it asks.

So it does not matter which controller is asked or when it was started, and a figure is never lost with a process.
Counters never go backwards, not even over a restart: they count from the first job on, records of jobs are kept, and
only what cannot change any more is counted. Whoever prunes those records some day must carry their sums along.
The names, their meaning and what to do about them: docs/watching.md.
"""

import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from kombu.exceptions import OperationalError
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, selectinload

from models import claims
from models.database import transaction
from models.drain import Drain, DrainState, GuestState
from models.errors import PreconditionFailed
from models.guest import Guest
from models.host import Host, HostState
from models.job import Attempt, Disk, Job, JobState, Step, StepState
from models.settings import Settings
from workers.app import CONTROL_QUEUE, UNROUTED_QUEUE, app, host_queue
from workflows import capacity

STEP_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 43200)
BLACKOUT_BUCKETS_S = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
SETTLED = timedelta(hours=1)
"""What ended so long ago is on record by now: the times are those of the hosts' own clocks, and these may differ."""
PATIENCE_S = 4.0
"""For Postgres, and then for Redis: Prometheus gives up after 10 s, and should hear before which of them is silent."""
UNREACHABLE = (SQLAlchemyError, OperationalError, RedisError, OSError)

Labels = tuple[str, ...]
Answer = TypeVar("Answer")


def check_address(address: str) -> None:
    """Say at once, and to whoever starts a controller, that no metrics can be served there.

    Raises:
        PreconditionFailed: `address` is no ADDRESS:PORT, or not this machine's, or taken.
    """
    host, port = _split(address)
    try:
        if not host or not 0 < int(port) < 1 << 16:
            raise ValueError("an address and a port between 1 and 65535 are wanted")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, int(port)), family=family).close()
    except (ValueError, OSError) as error:
        raise PreconditionFailed(
            f"no metrics can be served at {address!r} ({error}): set --metrics or DROVER_METRICS_ADDRESS to "
            "ADDRESS:PORT, e.g. 127.0.0.1:9464 or [::]:9464, with an address of this machine and a free port"
        ) from error


def serve(ours: Settings, leading: Callable[[], bool]) -> None:
    """Answer `GET /metrics` at `ours.metrics_address`, from threads of this process."""
    host, port = _split(ours.metrics_address)
    registry = CollectorRegistry()
    registry.register(Fleet(ours, leading))
    ProcessCollector(registry=registry)
    start_http_server(int(port), host, registry)


def _split(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return (host[1:-1] if host.startswith("[") else host), port


class Question(Generic[Answer]):
    """Put from a thread of its own, so that a server which does not answer holds no scrape up.

    While one has no answer no other is put: scrapes do not pile up before a server that is frozen.
    """

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self.ask = ask
        self.turn = threading.Lock()
        self.answer: Future[Answer | None] | None = None

    def __call__(self) -> Answer | None:
        """The answer; None: there was none in time."""
        with self.turn:
            if self.answer is None or self.answer.done():
                self.answer = Future()
                threading.Thread(target=self._put, args=(self.answer,), name="metrics", daemon=True).start()
            answer = self.answer
        try:
            return answer.result(PATIENCE_S)
        except TimeoutError:
            return None

    def _put(self, answer: "Future[Answer | None]") -> None:
        try:
            answer.set_result(self.ask())
        except UNREACHABLE:
            answer.set_result(None)
        except BaseException as error:  # a bug: whoever scrapes is told
            answer.set_exception(error)


class Fleet(Collector):
    """All figures. Their number grows with hosts and with moves under way, not with jobs that have ended."""

    def __init__(self, ours: Settings, leading: Callable[[], bool]) -> None:
        self.ours, self.leading = ours, leading
        self.ended = Ended()
        self.hosts: Sequence[str] = []
        self.database, self.broker = Question(self._ask_database), Question(self._ask_broker)

    def describe(self) -> list[Metric]:
        """Nothing: the registry would ask the database for the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        yield gauge("drover_leading", "1: this controller acts, 0: it stands by", int(self.leading()))
        families = self.database()
        yield gauge("drover_database_up", "Whether this controller reaches Postgres", int(families is not None))
        yield from families or []
        lengths = self.broker()
        yield gauge("drover_broker_up", "Whether this controller reaches Redis", int(lengths is not None))
        yield labelled("drover_queue_messages", "Messages nobody has taken yet", ["queue"], lengths or {})

    def _ask_database(self) -> list[Metric]:
        with transaction() as session:
            now = session.scalars(select(func.clock_timestamp())).one()
            self.hosts = session.scalars(select(Host.name)).all()
            return [
                *_hosts(session, now, self.ours),
                *_jobs(session, now),
                *_drains(session, now),
                *self.ended.tell(session, now),
            ]

    def _ask_broker(self) -> dict[str, float]:
        """How many messages wait in each queue, those of the hosts among them that the database last told of."""
        queues = [CONTROL_QUEUE, UNROUTED_QUEUE, *map(host_queue, self.hosts)]
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)  # else it tries for minutes
            channel: Any = connection.channel()
            pipe = channel.client.pipeline(transaction=False)
            for queue in queues:
                pipe.llen(queue)
            return dict(zip(queues, pipe.execute(), strict=True))


def gauge(name: str, meaning: str, value: float) -> Metric:
    """A figure without labels."""
    return GaugeMetricFamily(name, meaning, value=value)


def labelled(name: str, meaning: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    """A figure per label value, or per tuple of them."""
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for key, value in values.items():
        family.add_metric([str(label) for label in (key if isinstance(key, tuple) else (key,))], value)
    return family


def _hosts(session: Session, now: datetime, ours: Settings) -> Iterator[Metric]:
    hosts = session.scalars(select(Host)).all()
    ages = {host.name: (now - host.heartbeat_at).total_seconds() for host in hosts}
    yield labelled("drover_host_heartbeat_age_seconds", "Since its worker was last heard of", ["host"], ages)
    up = {name: int(age < ours.host_timeout.total_seconds()) for name, age in ages.items()}
    yield labelled("drover_host_up", "Whether its worker was heard of lately", ["host"], up)
    states = {(host.name, state.value): int(host.state is state) for host in hosts for state in HostState}
    yield labelled("drover_host_state", "1 for what its operator wants of it", ["host", "state"], states)
    guests = dict.fromkeys(ages, 0)
    for name, count in session.execute(select(Guest.host, func.count()).group_by(Guest.host)):
        guests[name] = count
    yield labelled("drover_host_guests", "Guests known to live on it", ["host"], guests)


UNFINISHED = (JobState.QUEUED, JobState.RUNNING, JobState.UNDOING, JobState.NEEDS_OPERATOR)
STARTED = (JobState.RUNNING, JobState.UNDOING, JobState.NEEDS_OPERATOR)


def _jobs(session: Session, now: datetime) -> Iterator[Metric]:
    """Those that have not ended. Only a few of them have begun, so these have series of their own."""
    jobs = dict.fromkeys((state.value for state in UNFINISHED), 0)
    counts = select(Job.state, func.count()).where(Job.state.in_(UNFINISHED)).group_by(Job.state)
    for state, count in session.execute(counts):
        jobs[state.value] = count
    yield labelled("drover_jobs", "Jobs that have not ended", ["state"], jobs)
    at_once = (Job.state == JobState.QUEUED, Job.not_before.is_(None))
    oldest = session.scalar(select(func.min(Job.created_at)).where(*at_once))
    waiting = (now - oldest).total_seconds() if oldest else 0.0
    yield gauge("drover_oldest_queued_job_age_seconds", "Of the jobs that wait to begin and have no set time", waiting)
    everything = (selectinload(Job.steps), selectinload(Job.disks))
    started = session.scalars(select(Job).where(Job.state.in_(STARTED)).options(*everything)).all()
    ages = {(job.id, job.guest, job.state.value, *_place(job)): _still_s(job, now) for job in started}
    yield labelled(
        "drover_job_step_age_seconds",
        "Since the job was last seen to move on",
        ["job_id", "guest", "state", "step", "host"],
        ages,
    )
    moved = {(job.id, job.guest): _moved_bytes(job) for job in started}
    yield labelled("drover_job_moved_bytes", "Of its disks and its RAM so far", ["job_id", "guest"], moved)
    due = dict.fromkeys(session.scalars(select(Host.name)), 0.0)
    for job in started:
        step = claims.runnable(job)
        if step is not None and step.next_at <= now:
            since = max(step.next_at, job.progress_at or step.next_at)
            due[step.host] = max(due[step.host], (now - since).total_seconds())
    yield labelled("drover_queue_age_seconds", "Of the oldest step that is due on it and not begun", ["host"], due)


def _place(job: Job) -> tuple[str, str]:
    """Step and host at which the job is now."""
    telling = [*claims.CLAIMED, StepState.FAILED]
    step = next((step for step in job.steps if step.state in telling), None) or claims.runnable(job)
    return (step.name, step.host) if step is not None else ("", "")


def _still_s(job: Job, now: datetime) -> float:
    if job.held and all(disk.ready_at for disk in job.disks):
        return 0.0  # it waits as it should, for its release or its window
    return (now - (job.progress_at or job.created_at)).total_seconds()


def _moved_bytes(job: Job) -> int:
    return sum(disk.bytes_copied for disk in job.disks) + int((job.ram or {}).get("transferred") or 0)


def _drains(session: Session, now: datetime) -> Iterator[Metric]:
    living = select(Drain).where(Drain.finished_at.is_(None)).options(selectinload(Drain.guests))
    drains = session.scalars(living).all()
    guests = {
        (drain.id, drain.kind.value, drain.host, state.value): sum(row.state is state for row in drain.guests)
        for drain in drains
        for state in GuestState
    }
    labels = ["drain", "kind", "host"]
    yield labelled("drover_drain_guests", "Guests of drains that have not ended", [*labels, "state"], guests)
    still = _still_drains(session, now)
    yield labelled("drover_drain_still_seconds", "Since any of its moves was last seen to move on", labels, still)


def _still_drains(session: Session, now: datetime) -> dict[Labels, float]:
    """Those that should go on: not one that is paused, or waits for its window or for the release of a move."""
    begun = and_(Job.state.in_(STARTED), Job.state != JobState.NEEDS_OPERATOR)
    newest = func.max(func.greatest(Job.progress_at, Job.finished_at, Job.created_at))
    waits = func.coalesce(func.bool_or(begun & capacity.parked()), False) | (
        Drain.window.is_not(None) & (func.count().filter(begun) == 0)
    )
    query = (
        select(Drain, newest)
        .outerjoin(Job, Job.drain_id == Drain.id)
        .where(Drain.state.in_((DrainState.RUNNING, DrainState.CANCELLING)))
        .group_by(Drain.id)
        .having(~waits)
    )
    return {
        (str(drain.id), drain.kind.value, drain.host): (now - (moved_at or drain.started_at)).total_seconds()
        for drain, moved_at in session.execute(query)
    }


class Ended:
    """All that has ended. What is settled is counted once; only what ended since is counted at each look."""

    def __init__(self) -> None:
        self.settled = Totals()
        self.until: datetime | None = None

    def tell(self, session: Session, now: datetime) -> list[Metric]:
        """As Prometheus wants it."""
        settled, until = deepcopy(self.settled), now - SETTLED
        settled.add(session, self.until, until)
        recent = deepcopy(settled)
        recent.add(session, until, None)
        self.settled, self.until = settled, until  # not before all went well
        return list(recent.tell())


class Totals:
    """Sums over jobs and tries at steps, as counters and histograms need them."""

    def __init__(self) -> None:
        self.steps: dict[Labels, Histogram] = defaultdict(lambda: Histogram(STEP_BUCKETS_S))
        self.jobs: Counter[Labels] = Counter()
        self.bytes: Counter[Labels] = Counter()
        self.blackout = Histogram(BLACKOUT_BUCKETS_S)

    def add(self, session: Session, after: datetime | None, until: datetime | None) -> None:
        """What ended in that time; None: since ever, or to this day."""
        tries = _within(Attempt.ended_at, after, until)
        for *labels, bucket, count, total in session.execute(_ended_steps(tries)):
            self.steps[tuple(map(str, labels))].add(bucket, count, float(total))
        # a job that needs an operator goes on some day: counted now, it would be taken back then
        jobs = [Job.state.in_((JobState.DONE, JobState.UNDONE)), *_within(Job.finished_at, after, until)]
        for state, count, disks, ram in session.execute(_ended_jobs(jobs)):
            self.jobs[state.value,] += count
            self.bytes["disks",] += int(disks or 0)
            self.bytes["ram",] += int(ram or 0)
        for bucket, count, total in session.execute(_blackouts(jobs)):
            self.blackout.add(bucket, count, float(total))

    def tell(self) -> Iterator[Metric]:
        """As Prometheus wants it."""
        labels = ["step", "side", "direction", "outcome"]
        family = HistogramMetricFamily("drover_step_duration_seconds", "Of each try at a step", labels=labels)
        for key, histogram in self.steps.items():
            family.add_metric(list(key), histogram.buckets(), histogram.total)
        yield family
        yield counter("drover_jobs_ended", "Jobs by how they ended", ["state"], self.jobs)
        yield counter("drover_moved_bytes", "Of jobs that have ended", ["what"], self.bytes)
        blackout = HistogramMetricFamily("drover_blackout_seconds", "For how long a move paused its guest")
        blackout.add_metric([], self.blackout.buckets(), self.blackout.total)
        yield blackout


class Histogram:
    """Counts per bucket and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.total = bounds, 0.0
        self.counts = [0] * (len(bounds) + 1)

    def add(self, bucket: int, count: int, total: float) -> None:
        """So many values between bound `bucket` - 1 and bound `bucket`, and what they add up to."""
        self.counts[bucket] += count
        self.total += total

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound with the number of values up to it."""
        names = [*map(str, self.bounds), "+Inf"]
        return [(name, sum(self.counts[: index + 1])) for index, name in enumerate(names)]


def counter(name: str, meaning: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    """A figure that only grows."""
    family = CounterMetricFamily(name, meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


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


def _blackouts(when: Iterable[ColumnElement[bool]]) -> Any:
    seconds = Job.blackout["ms"].as_float() / 1000
    bucket = _bucket(seconds, BLACKOUT_BUCKETS_S)
    done = (Job.state == JobState.DONE, seconds.is_not(None))
    return select(bucket, func.count(), func.sum(seconds)).where(*when, *done).group_by(bucket)
