"""What is under way: hosts, jobs, drains and rolls that have not ended."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from prometheus_client.core import Metric
from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from drover.metrics import families
from drover.metrics.builders import Labels
from drover.settings import Settings
from drover.views import queries
from drover.views.remaining import left_s
from drover.views.rolls import drains_under_way
from drover.views.serializers import public
from drover.words import gist
from models import kept_images
from models.drain import Drain, DrainState, GuestState
from models.guest import Guest, Life
from models.host import Host, HostState
from models.job import CLAIMED, Job, JobState, StepState, unfinished
from models.roll import Roll, RollHostState, RollState
from models.storage import Storage
from models.transitions import BEGUN, GOING_ON
from workflows import capacity, outages, wait_reasons
from workflows.presence import listed

ROOM = ("total_bytes", "free_bytes")
SEEN_LATELY = timedelta(minutes=5)
"""Older figures of a storage are not shown: its worker is silent, or it is not there any more."""


def of_hosts(session: Session, now: datetime, ours: Settings) -> Iterator[Metric]:
    """Whether they are there, and what is on them."""
    hosts = session.scalars(select(Host).where(listed(ours))).all()
    ages = {host.name: (now - host.heartbeat_at).total_seconds() for host in hosts}
    yield families.HOST_HEARTBEAT_AGE.of(ages)
    up = {name: int(age < ours.host_timeout.total_seconds()) for name, age in ages.items()}
    yield families.HOST_UP.of(up)
    states = {(host.name, state.value): int(host.state is state) for host in hosts for state in HostState}
    yield families.HOST_STATE.of(states)
    yield families.HOST_LABEL.of(_labels({host.name: host.labels for host in hosts}))
    yield from _of_guests(session, up)
    guests = dict.fromkeys(ages, 0)
    for name, count in session.execute(select(Guest.host, func.count()).group_by(Guest.host)):
        guests[name] = count
    yield from _of_arrivals(session)
    yield families.HOST_GUESTS.of(guests)
    yield from _of_storages(session, now)


def _of_guests(session: Session, up: dict[str, int]) -> Iterator[Metric]:
    """How many there are of each state; those in trouble by their names."""
    states = dict.fromkeys((life.value for life in Life), 0)
    troubled = {}
    for guest in session.scalars(select(Guest)):
        life = guest.life(host_alive=bool(up.get(guest.host)))
        states[life.value] += 1
        if life in {Life.GONE, Life.TWICE}:
            troubled[guest.name, guest.host, life.value] = 1
    yield families.GUESTS.of(states)
    yield families.GUEST_TROUBLE.of(troubled)


def _of_arrivals(session: Session) -> Iterator[Metric]:
    """Guests whose last move is not to be trusted, with the reason: their former images are kept for the way back."""
    unwell = dict[Labels, float]()
    for job in session.scalars(select(Job).where(kept_images.last_way_back(), Job.state == JobState.DONE)):
        why = "check" if job.health is not None and job.health.problems else "images"
        why = "not proven" if job.proof is not None and job.proof.not_proven is not None else why
        unwell[job.guest, job.destination, str(job.id), why] = 1.0
    yield families.GUEST_UNWELL.of(unwell)


def _of_storages(session: Session, now: datetime) -> Iterator[Metric]:
    """The room that their workers have seen lately."""
    rows = session.scalars(select(Storage).where(Storage.seen_at > now - SEEN_LATELY)).all()
    known = {(row.host, row.name): row for row in rows if row.total_bytes is not None and row.free_bytes is not None}
    total, free = ({key: float(getattr(row, name) or 0) for key, row in known.items()} for name in ROOM)
    yield families.STORAGE_BYTES.of(total)
    yield families.STORAGE_FREE_BYTES.of(free)
    low = {key: int(row.low) for key, row in known.items()}
    yield families.STORAGE_LOW.of(low)


def of_jobs(session: Session, now: datetime, ours: Settings) -> Iterator[Metric]:
    """Those that have not ended. Only a few of them have begun, so these have series of their own."""
    jobs = {state.value: 0 for state in JobState if not state.finished}
    counts = select(Job.state, func.count()).where(unfinished()).group_by(Job.state)
    for state, count in session.execute(counts):
        jobs[state.value] = count
    yield families.JOBS.of(jobs)
    at_once = (Job.state == JobState.QUEUED, Job.not_before.is_(None))
    oldest = session.scalar(select(func.min(Job.created_at)).where(*at_once))
    waiting = (now - oldest).total_seconds() if oldest else 0.0
    yield families.OLDEST_QUEUED_JOB_AGE.of(waiting)
    everything = (selectinload(Job.steps), selectinload(Job.disks))
    started = session.scalars(select(Job).where(Job.state.in_(BEGUN)).options(*everything)).all()
    ages = {(job.id, job.guest, job.state.value, *_place(job)): _still_s(job, now) for job in started}
    yield families.JOB_STEP_AGE.of(ages)
    moved = {(job.id, job.guest): _moved_bytes(job) for job in started}
    yield families.JOB_MOVED_BYTES.of(moved)
    left = {(job.id, job.guest): seconds for job in started if (seconds := left_s(job, now)) is not None}
    yield families.JOB_LEFT.of(left)
    waiting_for = queries.wait_reasons_of(session, [job.id for job in started])
    yield families.JOB_WAITING.of(_told({(job.id, job.guest): waiting_for[job.id] for job in started}))
    queued = session.scalars(select(Job.wait_reason).where(Job.state == JobState.QUEUED))
    reasons = Counter((gist(public(why or wait_reasons.UNDECIDED)),) for why in queued)
    yield families.QUEUED_JOBS.of(reasons)
    moving = session.scalars(select(Guest).where(Guest.name.in_([job.guest for job in started])))
    yield families.GUEST_LABEL.of(_labels({guest.name: guest.labels for guest in moving}))
    due = dict.fromkeys(session.scalars(select(Host.name).where(listed(ours))), 0.0)
    for job in started:
        step = job.next_step
        if step is not None and step.next_at <= now:
            since = max(step.next_at, job.progress_at or step.next_at)
            due[step.host] = max(due[step.host], (now - since).total_seconds())
    yield families.QUEUE_AGE.of(due)


def _labels(labels: Mapping[str, Mapping[str, str]]) -> dict[Any, float]:
    return {(owner, *pair): 1 for owner, pairs in labels.items() for pair in pairs.items()}


def _told(reasons: Mapping[tuple[Any, ...], str | None]) -> dict[Any, float]:
    """With the sentence of all other views. Its numbers would make a series of each moment."""
    return {(*key, gist(public(why))): 1 for key, why in reasons.items() if why}


def _place(job: Job) -> tuple[str, str]:
    """Step and host at which the job is now."""
    telling = [*CLAIMED, StepState.FAILED]
    step = next((step for step in job.steps if step.state in telling), None) or job.next_step
    return (step.name, step.host) if step is not None else ("", "")


def _still_s(job: Job, now: datetime) -> float:
    if job.held and all(disk.ready_at for disk in job.disks):
        return 0.0  # it waits as it should, for its release or its window
    return (now - (job.progress_at or job.created_at)).total_seconds()


def _moved_bytes(job: Job) -> int:
    return sum(disk.bytes_copied for disk in job.disks) + (job.ram.transferred if job.ram is not None else 0)


def of_drains(session: Session, now: datetime) -> Iterator[Metric]:
    """How far they are, and whether they go on."""
    living = select(Drain).where(Drain.finished_at.is_(None)).options(selectinload(Drain.guests))
    drains = session.scalars(living).all()
    guests = {
        (drain.id, drain.kind.value, drain.host, state.value): sum(row.state is state for row in drain.guests)
        for drain in drains
        for state in GuestState
    }
    yield families.DRAIN_GUESTS.of(guests)
    moving = [row.job_id for drain in drains for row in drain.guests if row.state is GuestState.MOVING and row.job_id]
    jobs, controlled = queries.with_reasons(session, moving), outages.is_attended(session)
    waiting = {
        (drain.id, drain.kind.value, drain.host): wait_reasons.of_drain(drain, jobs, controlled=controlled)
        for drain in drains
    }
    yield families.DRAIN_WAITING.of(_told(waiting))
    still = _still_drains(session, now)
    yield families.DRAIN_STILL.of(still)


def of_rolls(session: Session) -> Iterator[Metric]:
    """How far they are. Only a few of them go on at a time, each through hosts that no other one has."""
    living = select(Roll).where(Roll.finished_at.is_(None)).options(selectinload(Roll.hosts))
    rolls = session.scalars(living).all()
    states = {state.value: sum(roll.state is state for roll in rolls) for state in RollState if not state.ended}
    yield families.ROLLS.of(states)
    hosts = {
        (roll.id, state.value): sum(row.state is state for row in roll.hosts)
        for roll in rolls
        for state in RollHostState
    }
    yield families.ROLL_HOSTS.of(hosts)
    controlled = outages.is_attended(session)
    theirs = drains_under_way(session, rolls)
    waiting = {(roll.id,): wait_reasons.of_roll(roll, theirs, controlled=controlled) for roll in rolls}
    yield families.ROLL_WAITING.of(_told(waiting))
    failed = {roll.id: int(roll.state is RollState.PAUSED and roll.error is not None) for roll in rolls}
    yield families.ROLL_FAILED.of(failed)


def _still_drains(session: Session, now: datetime) -> dict[Labels, float]:
    """Those that should go on: not one that is paused, or waits for its window or for the release of a move."""
    begun = Job.state.in_(GOING_ON)
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
