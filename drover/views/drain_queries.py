"""Queries for the display of drains."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.orm.attributes import set_committed_value

from drover.errors import NotThere, PreconditionFailed
from drover.views.queries import elapsed_s, listed, with_reasons
from drover.views.remaining import left_s
from models import fleet, refusal
from models.database import transaction
from models.drain import Drain, DrainGuest, DrainState, GuestState
from models.host import Host
from models.job import Job, JobState
from workflows import hosts, not_there, outages, wait_reasons
from workflows.selectors import Selector


@dataclass(frozen=True)
class Row:
    """One guest of a drain, and its newest job."""

    guest: DrainGuest
    job: Job | None
    bytes_total: int
    """Of all disks, each byte counted once; 0 before there is a job."""
    bytes_copied: int
    """Of those, what is equal on both sides."""
    eta_s: float | None
    """Seconds that its move still takes once it goes on; None if unknown, or if it has ended."""

    @classmethod
    def of(cls, guest: DrainGuest, job: Job | None, at: datetime) -> Self:
        """As it is now, by the database's time."""
        disks = job.disks if job else []
        total, copied = sum(disk.bytes_size for disk in disks), sum(disk.bytes_done for disk in disks)
        return cls(guest, job, total, copied, _eta_s(guest, job, total, copied, at))

    @property
    def reason(self) -> str | None:
        """Why it waits, is left, or its move does not go on; see `workflows.wait_reasons`."""
        return self.guest.reason

    @property
    def needs_operator(self) -> bool:
        """An operator must decide about its job."""
        return self.job is not None and self.job.state is JobState.NEEDS_OPERATOR


def _eta_s(guest: DrainGuest, job: Job | None, total: int, copied: int, at: datetime) -> float | None:
    if guest.estimate_s is None or guest.state not in {GuestState.WAITING, GuestState.MOVING}:
        return None
    measured_s = None if job is None else left_s(job, at)
    if measured_s is not None:
        return measured_s
    moving = guest.state is GuestState.MOVING and total
    return guest.estimate_s * (1 - min(copied / total, 1) if moving else 1)


@dataclass(frozen=True)
class DrainShot:
    """A drain with its guests, and the database's time when it was read."""

    drain: Drain
    rows: list[Row]
    at: datetime
    max_outgoing: int
    """The fleet's limit at that time."""

    @property
    def ended(self) -> bool:
        """It does nothing more by itself."""
        return self.drain.state.ended

    @property
    def total_s(self) -> float | None:
        """From its start until its end, or until now."""
        return elapsed_s(self.drain.started_at, self.drain.finished_at or self.at)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last guest has moved, by the estimates and as many moves at a time as may leave a host."""
        left = [row.eta_s for row in self.rows if row.eta_s is not None]
        if self.ended or not left:
            return None
        return max(*left, sum(left) / self.max_outgoing)

    def count(self, *states: GuestState) -> int:
        """Guests in these states."""
        return sum(row.guest.state in states for row in self.rows)


def snapshot(drain_id: int) -> DrainShot:
    """The drain as it is now.

    Raises:
        PreconditionFailed: there is none.
    """
    found = _read(select(Drain, func.now()).where(Drain.id == drain_id))
    if not found:
        raise not_there.drain(drain_id)
    return found[0]


def newest(
    *, everything: bool, limit: int, selector: Selector | None = None, since: timedelta | None = None
) -> list[DrainShot]:
    """Drains, newest first; without `everything` only those that go on, or have left something.

    A selector is about their hosts. `since`: all that were submitted so long ago at the most.
    """
    query = select(Drain, func.now()).order_by(Drain.id.desc()).limit(limit)
    goes_on = Drain.state.not_in([DrainState.DONE, DrainState.CANCELLED])
    query = query.where(listed(Drain.created_at, goes_on, everything=everything, since=since))
    if selector is not None:
        query = query.where(Drain.host.in_(select(Host.name).where(hosts.selected(selector))))
    return _read(query)


def id_of(idempotency_key: str) -> int:
    """The number of the drain that was submitted with this key.

    Raises:
        PreconditionFailed: there is none.
    """
    with transaction() as session:
        found = session.scalar(select(Drain.id).where(Drain.idempotency_key == idempotency_key))
        why = refusal.why(session, "drain", idempotency_key)
    if found is None and why is not None:
        raise PreconditionFailed(f"the submission with the key {idempotency_key!r} was refused: {why}")
    if found is None:
        raise NotThere(f"no drain was submitted with the key {idempotency_key!r}")
    return found


def completed(session: Session, drains: Sequence[Drain]) -> dict[int, Job]:
    """Have drains and their guests say all of why they wait. Nothing is written: they are to be shown.

    Returns their jobs by number.
    """
    jobs = with_reasons(session, [row.job_id for drain in drains for row in drain.guests if row.job_id])
    controlled = outages.is_attended(session)
    for drain in drains:
        for row in drain.guests:
            why = wait_reasons.of_guest(drain, row, jobs.get(row.job_id or 0), controlled=controlled)
            set_committed_value(row, "reason", why)
        set_committed_value(drain, "wait_reason", wait_reasons.of_drain(drain, jobs, controlled=controlled))
    return jobs


def _read(query: Select[Drain, datetime]) -> list[DrainShot]:
    with transaction() as session:
        drains = session.execute(query.options(selectinload(Drain.guests))).all()
        jobs = completed(session, [drain for drain, _ in drains])
        max_outgoing = fleet.limits(session).max_outgoing
    return [
        DrainShot(drain, [Row.of(guest, jobs.get(guest.job_id or 0), at) for guest in drain.guests], at, max_outgoing)
        for drain, at in drains
    ]
