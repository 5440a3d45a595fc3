"""Which hosts could be emptied, how long that takes, and what stands in the way. Changes nothing."""

from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from drover import words
from drover.settings import settings
from models import fleet
from models.base import now
from models.database import transaction
from models.documents import AllowedHosts, MigrationOptions, Window
from models.drain import DrainKind
from models.host import Host
from models.job import Job, JobState
from workflows import capacity, estimate, hosts, leader_election, policies, schedule, timetable
from workflows.drain import commands, planner
from workflows.drain.planner import DrainRequest
from workflows.presence import known_host
from workflows.selectors import Selector
from workflows.submit_options import SubmitOptions


@dataclass(frozen=True, kw_only=True)
class Headroom:
    """What emptying one host would be like."""

    host: str
    guests: int
    total_s: float
    """For those that can be moved, without a wait for a window."""
    left: dict[str, str]
    """{guest that would stay: why}."""
    obstacles: tuple[str, ...] = ()
    """What else stands in the way, as sentences."""

    @property
    def ok(self) -> bool:
        """It can be emptied."""
        return not self.left and not self.obstacles


def ok_to_drain(host: str, window: Window | None = None) -> Headroom:
    """Ask every guest's host and every destination.

    Raises:
        PreconditionFailed: the host is unknown or silent.
    """
    known_host(host)
    made = planner.forecast(DrainRequest(kind=DrainKind.DRAIN, host=host, terms=SubmitOptions(window=window)))
    with transaction() as session:
        total_s = timetable.total_s(made.plan.placements, made.speed, fleet.limits(session))
        obstacles = _obstacles(session, host) + _too_long(session, total_s, window)
    return Headroom(
        host=host, guests=len(made.sources), total_s=total_s, left=dict(made.plan.left), obstacles=tuple(obstacles)
    )


def of_all(selector: Selector, window: Window | None) -> list[Headroom]:
    """Each host alone, if the others stay as they are; by what is on record, without asking anybody."""
    with transaction() as session:
        meant = select(Host.name).where(hosts.selected(selector)).order_by(Host.name)
        return [_by_rows(session, name, window) for name in session.scalars(meant)]


def _by_rows(session: Session, host: str, window: Window | None) -> Headroom:
    guests = planner.guests_of(session, DrainKind.DRAIN, host)
    kept = planner.keep(DrainKind.DRAIN, guests, now(session))
    rules, going = policies.all_of(session), [one for one in guests if one.name not in kept]
    how = {one.name: policies.decided(one, MigrationOptions(), rules) for one in going}
    movable = [planner.candidate(one, how[one.name], preferred=None, refused_by={}) for one in going]
    made = planner.placed(session, DrainKind.DRAIN, host, AllowedHosts(), movable)
    total_s = timetable.total_s(made.placements, estimate.speed(session), fleet.limits(session))
    obstacles = _obstacles(session, host) + _too_long(session, total_s, window)
    return Headroom(host=host, guests=len(guests), total_s=total_s, left=kept | made.left, obstacles=tuple(obstacles))


def _obstacles(session: Session, host: str) -> list[str]:
    found = [] if leader_election.anybody_acts(session) else ["no controller is active: start `drover controller`"]
    room = capacity.rooms(session, settings())[host]
    found += [f"{room.silence}, what it has is not known"] if room.silent else []
    drain = commands.under_way(session, host)
    if drain is not None:
        found.append(f"drain {drain.id} of {host} is {drain.state}: `drover drain show {drain.id}`")
    stuck = select(Job).where(Job.state == JobState.NEEDS_OPERATOR, or_(Job.source == host, Job.destination == host))
    found += [
        f"job {job.id} of {job.guest} needs an operator: `drover job explain {job.id}`"
        for job in session.scalars(stuck.order_by(Job.id))
    ]
    return found


def _too_long(session: Session, total_s: float, window: Window | None) -> list[str]:
    if window is None:
        return []
    allowed = schedule.Window.of(window)
    opens, closes = allowed.at_or_after(now(session))
    lasts_s = (closes - opens).total_seconds()
    if total_s <= lasts_s:
        return []
    return [
        f"all moves together take about {words.about(total_s)} and the window {allowed} lasts "
        f"{words.duration(lasts_s)}: some wait for the next one, or have the disks copied ahead with --seed-now"
    ]
