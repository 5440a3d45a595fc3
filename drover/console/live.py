"""What tells a browser that the page it shows has changed: server-sent events, by polling a cheap version of it."""

import asyncio
import enum
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import ServerSentEvent
from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from drover.settings import settings
from drover.views import documents, fleet
from models.database import transaction
from models.drain import Drain, DrainGuest, PlanApproval, SubmittedPlan
from models.host import Host
from models.job import Disk, Event, Job, JobState, Step, unfinished
from models.roll import HookRun, Roll, RollHost
from models.webhook import Delivery
from workflows.drain import plans

POLL_S = 0.5
TIME_TELLS_S = 10
"""How old what time alone brings about may be: for how long a host has been silent, or nothing was copied."""
AWAY = "The database does not answer: what is shown may be old."


class Page(enum.StrEnum):
    """What a browser may show."""

    FLEET = "fleet"
    HOST = "host"
    JOB = "job"
    JOBS = "jobs"
    DRAIN = "drain"
    DRAINS = "drains"
    PLAN = "plan"
    ROLL = "roll"
    ROLLS = "rolls"
    INBOX = "inbox"
    HISTORY = "history"


Version = Callable[[Session, str], str]


@dataclass
class Versions:
    """The newest version of each page. Browsers that show the same page share one query."""

    known: dict[tuple[Page, str], tuple[float, str]] = field(default_factory=dict)

    def of(self, page: Page, number: str) -> str:
        """At most `POLL_S` old.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        at, version = self.known.get((page, number), (0.0, ""))
        if time.monotonic() - at < POLL_S / 2:
            return version
        with transaction() as session:
            version = VERSION_OF[page](session, number)
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        self.known[page, number] = time.monotonic(), version
        return version


MOST_KNOWN = 1000
VERSIONS = Versions()


async def changes(page: Page, number: str) -> AsyncIterator[ServerSentEvent]:
    """`changed` whenever the page is to be fetched anew; `status` with a sentence when it may be old."""
    shown: str | None = None
    away = False
    while True:
        try:
            version = await run_in_threadpool(VERSIONS.of, page, number)
        except SQLAlchemyError:
            if not away:
                yield ServerSentEvent(event="status", raw_data=AWAY)
            away = True
        else:
            if away:
                yield ServerSentEvent(event="status", raw_data="")
            if away or shown not in {None, version}:
                yield ServerSentEvent(event="changed", raw_data=version)
            shown, away = version, False
        await asyncio.sleep(POLL_S)


async def job(number: int) -> AsyncIterator[ServerSentEvent]:
    """The job's document at once and after each change; the last one is of its end."""
    shown: str | None = None
    while True:
        try:
            version = await run_in_threadpool(VERSIONS.of, Page.JOB, str(number))
            if version != shown:
                told = await run_in_threadpool(documents.job, number)
                yield ServerSentEvent(event="job", data=told)
                shown = version
                if JobState(told["state"]).finished:
                    return
        except SQLAlchemyError:
            yield ServerSentEvent(comment=AWAY)
        await asyncio.sleep(POLL_S)


def _fleet(session: Session, _: str) -> str:
    return fleet.version(session, settings())


def _host(session: Session, _: str) -> str:
    return _fleet(session, "") + _passed()


def _passed() -> str:
    """Changes now and then, because a reason to wait may have come about, or grown older, without any row changed."""
    return f" {time.monotonic() // TIME_TELLS_S:.0f}"


def _job(session: Session, number: str) -> str:
    of = int(number) if number.isdecimal() else 0
    progress = select(func.sum(Disk.bytes_copied)).where(Disk.job_id == of).scalar_subquery()
    steps = select(func.string_agg(Step.state, aggregate_order_by(literal(","), Step.seq))).where(Step.job_id == of)
    event = select(func.max(Event.id)).where(Event.job_id == of).scalar_subquery()
    what = (Job.state, Job.wait_reason, Job.progress_at, Job.cancel_requested, progress, steps.scalar_subquery(), event)
    row = session.execute(select(*what).where(Job.id == of)).one_or_none()
    return str(row) + ("" if row is None or row.state.finished else _passed())


def _drain(session: Session, number: str) -> str:
    of = int(number) if number.isdecimal() else 0
    rows = func.concat_ws(",", DrainGuest.guest, DrainGuest.state, DrainGuest.job_id, DrainGuest.reason)
    guests = select(func.md5(func.string_agg(rows, aggregate_order_by(literal(";"), DrainGuest.position)))).where(
        DrainGuest.drain_id == of
    )
    jobs = (
        select(func.concat_ws(",", func.max(Job.progress_at), func.max(Job.finished_at), func.sum(Disk.bytes_copied)))
        .join(Disk)
        .where(Job.drain_id == of)
    )
    what = (Drain.state, Drain.wait_reason, guests.scalar_subquery(), jobs.scalar_subquery())
    row = session.execute(select(*what).where(Drain.id == of)).one_or_none()
    return str(row) + ("" if row is None or row.state.ended else _passed())


def _jobs(session: Session, _: str) -> str:
    newest = select(func.max(Job.id)).scalar_subquery()
    moved = select(func.sum(Disk.bytes_copied)).join(Job).where(unfinished()).scalar_subquery()
    rows = func.concat_ws(",", Job.id, Job.state, Job.wait_reason, Job.progress_at)
    under_way = select(func.md5(func.string_agg(rows, aggregate_order_by(literal(";"), Job.id)))).where(unfinished())
    row = session.execute(select(newest, moved, under_way.scalar_subquery().label("under_way"))).one()
    return str(row) + ("" if row.under_way is None else _passed())


def _drains(session: Session, _: str) -> str:
    rows = func.concat_ws(",", Drain.id, Drain.state, Drain.wait_reason)
    drains = select(func.md5(func.string_agg(rows, aggregate_order_by(literal(";"), Drain.id)))).scalar_subquery()
    guests = select(func.md5(func.string_agg(DrainGuest.state, aggregate_order_by(literal(""), DrainGuest.guest))))
    return str(session.execute(select(drains, guests.scalar_subquery())).one())


def _plan(session: Session, number: str) -> str:
    of = int(number) if number.isdecimal() else 0
    approved = select(func.count()).where(PlanApproval.digest == SubmittedPlan.digest).scalar_subquery()
    what = (SubmittedPlan.withdrawn_by, SubmittedPlan.drain_id, SubmittedPlan.submitted_at, approved)
    return str(session.execute(select(*what).where(SubmittedPlan.id == of)).one_or_none())


def _plans(session: Session) -> str:
    waiting = select(func.concat_ws(",", func.count(), func.max(SubmittedPlan.submitted_at))).where(plans.WAITING)
    approved = select(func.concat_ws(",", func.count(), func.max(PlanApproval.at)))
    return str(session.execute(select(waiting.scalar_subquery(), approved.scalar_subquery())).one())


def _roll(session: Session, number: str) -> str:
    of = int(number) if number.isdecimal() else 0
    rows = func.concat_ws(",", RollHost.host, RollHost.state, RollHost.reason, RollHost.error, RollHost.since)
    hosts = select(func.md5(func.string_agg(rows, aggregate_order_by(literal(";"), RollHost.position)))).where(
        RollHost.roll_id == of
    )
    runs = select(func.max(HookRun.seen_at)).where(HookRun.roll_id == of)
    what = (Roll.state, Roll.wait_reason, Roll.error, hosts.scalar_subquery(), runs.scalar_subquery())
    return str(session.execute(select(*what).where(Roll.id == of)).one_or_none())


def _rolls(session: Session, _: str) -> str:
    rows = func.concat_ws(",", Roll.id, Roll.state, Roll.wait_reason, Roll.error)
    rolls = select(func.md5(func.string_agg(rows, aggregate_order_by(literal(";"), Roll.id)))).scalar_subquery()
    hosts = select(func.md5(func.string_agg(RollHost.state, aggregate_order_by(literal(""), RollHost.host))))
    return str(session.execute(select(rolls, hosts.scalar_subquery())).one())


def _inbox(session: Session, _: str) -> str:
    newest = select(func.max(Delivery.id), func.count()).where(Delivery.state == "failed").subquery()
    keys = select(func.count()).where(Host.public_key != Host.trusted_key).scalar_subquery()
    told = str(session.execute(select(newest, keys)).one())
    return (
        told + _plans(session) + _fleet(session, "") + _drains(session, "") + _rolls(session, "") + _jobs(session, "")
    )


def _history(session: Session, _: str) -> str:
    return str(session.execute(select(func.max(Job.finished_at), func.count(Job.finished_at))).one())


VERSION_OF: dict[Page, Version] = {
    Page.FLEET: _fleet,
    Page.HOST: _host,
    Page.JOB: _job,
    Page.JOBS: _jobs,
    Page.DRAIN: _drain,
    Page.DRAINS: _drains,
    Page.PLAN: _plan,
    Page.ROLL: _roll,
    Page.ROLLS: _rolls,
    Page.INBOX: _inbox,
    Page.HISTORY: _history,
}
