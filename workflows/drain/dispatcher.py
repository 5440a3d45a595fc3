"""Whose turn it is: the guests that wait are planned anew, and as many are moved as there are free slots."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from drover.errors import HostRefused, NotPermitted, PreconditionFailed, Unavailable
from drover.settings import Settings
from models import fleet
from models.base import now
from models.controller import wake
from models.database import transaction
from models.documents import MigrationOptions
from models.drain import Drain, DrainGuest, DrainState, GuestState
from models.guest import Guest
from models.job import Job, JobState, unfinished
from workflows import capacity, estimate, isolation, permissions, policies
from workflows.drain import job_sync, notices, plan_file
from workflows.drain.placement import Candidate, Placement
from workflows.drain.plan_file import Differs
from workflows.drain.planner import candidate, keep, outside_window, placed
from workflows.host_rpc import ANSWER_TIMEOUT_S
from workflows.migration import jobs
from workflows.schedule import Wait
from workflows.submit_options import SubmitOptions
from workflows.timetable import way_of

log = logging.getLogger(__name__)

ASKED_FOR = timedelta(seconds=3 * ANSWER_TIMEOUT_S)
"""Resend after this time: a submission asks its hosts three questions of 30 s each at most."""


def choose(session: Session, drain: Drain, ours: Settings) -> list[str]:
    """The guests whose jobs are to be submitted now; the others get a reason why they wait or are skipped."""
    promised = _promised(session, drain)
    waiting = {row.guest: row for row in drain.guests if row.state is GuestState.WAITING and row.guest not in promised}
    if not waiting:
        return []
    guests = _guests(session, promised | waiting.keys())
    ways, at = _ways(session, drain, guests), now(session)
    last = notices.newest(session, drain, ways)
    theirs = {name: guest for name, guest in guests.items() if name in waiting}
    waits = _obstacles(session, waiting, ours)
    waits |= {name: Wait(why=why, for_good=True) for name, why in keep(drain.kind, theirs.values(), at).items()}
    waits |= _withdrawn(session, drain, theirs)
    waits |= notices.vetoes({name: ways[name] for name in theirs}, last, at)
    candidates = _candidates(drain, guests, ways, promised, waiting.keys() - waits.keys())
    made = placed(session, drain.kind, drain.host, drain.allowed_hosts, candidates)
    asked = [one for one in made.placements if one.candidate.name in waiting]
    waits |= outside_window(asked, estimate.speed(session), at, SubmitOptions.of(drain))
    due = _with_slots(session, [one for one in made.placements if one.candidate.name not in waits], waiting, ours)
    for name in due:
        waiting[name].reason = notices.ask_first(session, waiting[name], ways, last, at)
    chosen = [name for name in due if waiting[name].reason is None]
    for name in chosen:
        waiting[name].asked_at = func.clock_timestamp()
    busy = bool(promised or due) or job_sync.moves_under_way(session, drain)
    waits |= {name: Wait(why=why, for_good=not busy) for name, why in made.left.items() if name in waiting}
    for name, wait in waits.items():
        _wait_or_leave(waiting[name], wait)
    return chosen


def _with_slots(
    session: Session, placements: Iterable[Placement], waiting: Mapping[str, DrainGuest], ours: Settings
) -> list[str]:
    """Give the free slots away in the order of the plan; who was promised a place holds one already."""
    slots, speed = capacity.slots(session, fleet.limits(session)), estimate.speed(session)
    rooms = capacity.rooms(session, ours)
    chosen = []
    for placement in sorted(placements, key=lambda one: not one.candidate.promised):
        guest, row = placement.candidate, waiting.get(placement.candidate.name)
        if row is None:
            slots.reserve(guest.source, placement.destination)
            continue
        room = rooms[placement.destination]
        row.estimate_s = speed.of(way_of(placement)).move_s(guest.size)
        row.reason = (room.silence if room.silent else None) or slots.lacking(guest.source, placement.destination)
        if row.reason is None:
            slots.reserve(guest.source, placement.destination)
            row.destination = placement.destination
            chosen.append(guest.name)
    return chosen


def _wait_or_leave(row: DrainGuest, wait: Wait) -> None:
    """A guest without a destination is left only when nothing is under way that might make room for it."""
    row.reason = wait.of("drain", row.drain_id)
    if wait.for_good:
        row.move(GuestState.SKIPPED, wait.why)


def _withdrawn(session: Session, drain: Drain, guests: Mapping[str, Guest]) -> dict[str, Wait]:
    """Those that the token with which the drain was submitted does not let go any more."""
    found = {
        name: permissions.withdrawn_from_move(session, drain, guest, drain.host, guest.host)
        for name, guest in guests.items()
    }
    return {name: Wait(why=why, for_good=True) for name, why in found.items() if why is not None}


def _promised(session: Session, drain: Drain) -> set[str]:
    """Guests that have their place already: their job is being submitted, or waits to be admitted."""
    fresh = DrainGuest.asked_at > func.clock_timestamp() - ASKED_FOR
    query = (
        select(DrainGuest.guest)
        .outerjoin(Job, Job.id == DrainGuest.job_id)
        .where(
            DrainGuest.drain_id == drain.id,
            or_(
                and_(DrainGuest.state == GuestState.WAITING, fresh),
                and_(DrainGuest.state == GuestState.MOVING, Job.state == JobState.QUEUED),
            ),
        )
    )
    return set(session.scalars(query))


def _obstacles(session: Session, waiting: Mapping[str, DrainGuest], ours: Settings) -> dict[str, Wait]:
    """What keeps guests from being moved, wherever to: their host is silent, or somebody else moves them."""
    rooms = {name: room for name, room in capacity.rooms(session, ours).items() if room.silent}
    silent = {
        name: Wait(why=rooms[row.source].silence, for_good=rooms[row.source].lost)
        for name, row in waiting.items()
        if row.source in rooms
    }
    others = session.scalars(select(Job).where(unfinished(), Job.guest.in_(list(waiting)))).all()
    return silent | {job.guest: Wait(why=_moved_by(job)) for job in others}


def _moved_by(job: Job) -> str:
    return f"job {job.id} is moving it to {job.destination}: `drover job cancel {job.id}` ends that"


def _guests(session: Session, names: set[str]) -> dict[str, Guest]:
    return {guest.name: guest for guest in session.scalars(select(Guest).where(Guest.name.in_(names)))}


def _ways(session: Session, drain: Drain, guests: Mapping[str, Guest]) -> dict[str, MigrationOptions]:
    rules = policies.all_of(session)
    return {name: policies.decided(guest, drain.options, rules) for name, guest in guests.items()}


def _candidates(
    drain: Drain,
    guests: Mapping[str, Guest],
    ways: Mapping[str, MigrationOptions],
    promised: set[str],
    waiting: set[str],
) -> list[Candidate]:
    return [
        candidate(
            guests[row.guest],
            ways[row.guest],
            preferred=row.destination,
            refused_by=row.refused_by if row.guest in waiting else {},
            promised=row.guest in promised,
            only=row.destination if drain.follows_plan else None,
            turn=row.position if drain.follows_plan else 0,
        )
        for row in drain.guests
        if row.guest in guests and row.guest in promised | waiting
    ]


def submit(drain_id: int, guest: str) -> None:
    """Submit the job of a guest whose turn it is. Doing so twice does no harm: a guest has one job at a time."""
    with transaction() as session:
        drain = session.get_one(Drain, drain_id)
        row = session.get_one(DrainGuest, (drain_id, guest))
    if drain.state is not DrainState.RUNNING or row.state is not GuestState.WAITING or row.destination is None:
        return
    terms = replace(SubmitOptions.of(drain), webhook=None)  # that is told of the drain's end
    about = {"drain": drain_id, "guest": guest}

    def still_wanted(session: Session, job: Job) -> None:
        drain = session.get_one(Drain, drain_id, with_for_update=True)
        if drain.state is not DrainState.RUNNING:
            raise Unavailable(f"drain {drain_id} is {drain.state}: it begins no other move")
        row = session.get_one(DrainGuest, (drain_id, guest))
        if row.state is not GuestState.WAITING:
            raise Unavailable(f"{guest} does not wait for its turn in drain {drain_id} any more")
        there = session.get_one(Guest, guest)
        if withdrawn := permissions.withdrawn_from_move(session, drain, there, job.source, job.destination):
            raise NotPermitted(withdrawn)
        if row.planned is not None:
            plan_file.compare(there, row.planned, job.options)  # its host has just looked at it

    try:
        jobs.submit(
            guest,
            row.destination,
            options=drain.options,
            terms=terms,
            drain_id=drain_id,
            still_wanted=still_wanted,
            by=f"drain {drain_id}",
            token=drain.submitted_with,
            because=f"drain {drain_id} was submitted by {drain.submitted_by}" if drain.submitted_by else "",
        )
    except PreconditionFailed as error:
        log.info("does not go to %s: %s", row.destination, error, extra=about)
        _refused(drain_id, guest, row.destination, error)
    except Exception as error:
        log.exception(
            "the move to %s could not be submitted; the guest stays where it is", row.destination, extra=about
        )
        _refused(drain_id, guest, row.destination, Unavailable(isolation.reason(error)))


def _refused(drain_id: int, guest: str, destination: str, error: PreconditionFailed) -> None:
    """The consequence of a refusal depends on who refused, see `_without_job`."""
    with transaction() as session:
        session.get_one(Drain, drain_id, with_for_update=True)
        row = session.get_one(DrainGuest, (drain_id, guest))
        if row.state is not GuestState.WAITING:
            return
        row.reason = str(error)
        if session.scalar(select(Job).where(unfinished(), Job.guest == guest).limit(1)) is None:
            _without_job(row, destination, error)
        wake(session)


def _without_job(row: DrainGuest, destination: str, error: PreconditionFailed) -> None:
    """A missing answer is no refusal: the host is asked again later. A refusal by the guest's own host holds for every
    destination: the guest is skipped; if that host failed to look, only the second time. Any other refusal is about
    this destination, and another one is looked for.
    """
    if isinstance(error, Unavailable):
        return
    if isinstance(error, Differs):
        row.move(GuestState.SKIPPED, str(error))
        return
    if not isinstance(error, HostRefused) or error.host != row.source:
        row.refused_by, row.asked_at = {**row.refused_by, destination: str(error)}, None
    elif error.failed and row.source not in row.refused_by:
        row.refused_by = {**row.refused_by, row.source: str(error)}
    else:
        row.move(GuestState.SKIPPED, str(error))
