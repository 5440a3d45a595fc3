"""Who would go where, and how long it would take: the placement, with every host asked beforehand."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from drover.errors import NoBroker, PreconditionFailed
from drover.settings import settings
from models import fleet
from models.base import now
from models.database import transaction
from models.documents import AllowedHosts, MigrationOptions, Recurrence, Window
from models.drain import Drain, DrainGuest, DrainKind, GuestState
from models.guest import Guest
from models.host import Host
from models.job import Job, JobState
from models.plan import Inspection
from models.transitions import BEGUN
from workflows import capacity, estimate, not_there, policies, schedule
from workflows.capacity import Size
from workflows.drain.placement import Candidate, DrainPlan, Placement, Resident, plan
from workflows.estimate import Speed
from workflows.migration import preflight
from workflows.presence import listed
from workflows.schedule import Wait
from workflows.selectors import Selector
from workflows.submissions import DrainSubmission
from workflows.submit_options import SubmitOptions
from workflows.timetable import Open, Times, timetable, way_of

Asked = TypeVar("Asked")

EVERYBODY = Selector()
Targets = Mapping[str, str]
"""{guest: the only host that it may go to}: by a plan, in the order of the moves."""
ASKED_AT_ONCE = 8
"""Guests and hosts that are asked at the same time."""


@dataclass(frozen=True, kw_only=True)
class DrainRequest:
    """What is asked of a drain."""

    kind: DrainKind
    host: str
    where: AllowedHosts = field(default_factory=AllowedHosts)
    options: MigrationOptions = field(default_factory=MigrationOptions)
    terms: SubmitOptions = field(default_factory=SubmitOptions)
    recurrence: Recurrence | None = None
    selector: str | None = None
    """See `Drain.selector`."""

    @classmethod
    def of(cls, kind: DrainKind, submission: DrainSubmission) -> "DrainRequest":
        """What a submission means.

        Raises:
            PreconditionFailed: a time, window, zone or repetition is not understood.
        """
        return cls(
            kind=kind,
            host=submission.host,
            where=submission.allowed_hosts(),
            options=submission.options(),
            terms=submission.submit_options(),
            recurrence=submission.recurrence(),
            selector=submission.selected(),
        )


@dataclass(frozen=True, kw_only=True)
class Night:
    """One opening of a window, and what a drain does in it."""

    opens: datetime
    guests: tuple[str, ...]
    done_at: datetime
    """When the last of them is expected to have moved."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a drain would do."""

    kind: DrainKind
    host: str
    sources: Mapping[str, str]
    """{guest: the host that it is on}: all guests that the drain is about."""
    plan: DrainPlan
    speed: Speed
    begins_at: datetime
    times: Mapping[str, Times]
    """{guest: when it moves}, from then on; without those that the fleet's limits never let begin."""
    options: Mapping[str, MigrationOptions] = field(default_factory=dict)
    """{guest: how it is moved}."""
    window: Window | None = None
    """In which its guests cross; None: at any time."""

    @property
    def nights(self) -> tuple[Night, ...]:
        """What falls into which opening of its window, the first one first; none where there is no window."""
        if self.window is None:
            return ()
        allowed, found = schedule.Window.of(self.window), dict[datetime, list[str]]()
        for guest, times in self.times.items():
            opens, _ = allowed.at_or_after(self.begins_at + timedelta(seconds=times.begins_s))
            found.setdefault(opens, []).append(guest)
        return tuple(
            Night(opens=opens, guests=tuple(guests), done_at=self._ends_at(guests)) for opens, guests in found.items()
        )

    def _ends_at(self, guests: Iterable[str]) -> datetime:
        return self.begins_at + timedelta(seconds=max(self.times[guest].ends_s for guest in guests))

    @property
    def total_s(self) -> float:
        """How long all of it takes."""
        return max((one.ends_s for one in self.times.values()), default=0.0)

    def move_s(self, placement: Placement) -> float:
        """How long one of its moves takes, in seconds."""
        times = self.times.get(placement.candidate.name)
        return self.speed.of(way_of(placement)).move_s(placement.candidate.size) if times is None else times.takes_s

    def begins_s(self, placement: Placement) -> float | None:
        """When one of its moves begins, in seconds from its own beginning; None: the fleet's limits never let it."""
        times = self.times.get(placement.candidate.name)
        return None if times is None else round(times.begins_s, 1)

    def moves_at(self, placement: Placement) -> datetime | None:
        """The same as a time."""
        begins_s = self.begins_s(placement)
        return None if begins_s is None else self.begins_at + timedelta(seconds=begins_s)


def forecast(request: DrainRequest, *, targets: Targets | None = None, tried: bool = False) -> Forecast:
    """Plan all guests of a drain at once, after having asked every guest's host and every destination.

    With targets just those guests are moved, whatever its selector, each to its target or nowhere.

    On request a destination also starts each guest's QEMU for a moment.

    Changes nothing but the recorded sizes of the guests.

    Raises:
        PreconditionFailed: a host is unknown, or the selector is not understood.
    """
    terms, selector = request.terms, Selector.read(request.selector if targets is None else None)
    with transaction() as session:
        check_hosts(session, request)
        meant = guests_of(session, request.kind, request.host, selector)
        guests = {guest.name: guest for guest in meant if targets is None or guest.name in targets}
        kept = keep(request.kind, guests.values(), now(session))
        rules = policies.all_of(session)
    how = {name: policies.decided(guest, request.options, rules) for name, guest in guests.items()}
    survey = _Survey(guests, tried, how, immovable=kept, targets=targets)
    made = _surveyed(request, survey)
    with transaction() as session:
        speed, at, limits = estimate.speed(session), now(session), fleet.limits(session)
    begins = max(at, terms.not_before or at)
    window = None if terms.seed else terms.window
    hours = None if window is None else Open(window=window, now=begins)
    waits = outside_window(made.placements, speed, at, terms)
    never = {name: wait.why for name, wait in waits.items() if wait.for_good}
    made = _without(made, survey.immovable, never)
    return Forecast(
        kind=request.kind,
        host=request.host,
        sources={guest.name: guest.host for guest in guests.values()},
        plan=made,
        speed=speed,
        begins_at=begins,
        times=timetable(made.placements, speed, limits, hours),
        options=how,
        window=window,
    )


def _surveyed(request: DrainRequest, survey: "_Survey") -> DrainPlan:
    """Ask every guest's host, then destinations until no answer changes who goes where."""
    survey.ask_guests()
    while survey.ask_destinations(made := _placed(request, survey)):
        pass
    return made


def _without(made: DrainPlan, immovable: Mapping[str, str], never: Mapping[str, str]) -> DrainPlan:
    """Those that cannot be moved, or not within the window, are left: {guest: why}."""
    placements = tuple(one for one in made.placements if one.candidate.name not in never)
    return DrainPlan(placements=placements, left={**immovable, **made.left, **never})


def outside_window(
    placements: Iterable[Placement], speed: Speed, at: datetime, terms: SubmitOptions
) -> dict[str, Wait]:
    """Guests whose move could not end within the window if it began now; disks that are copied ahead may always be."""

    def wait(one: Placement) -> Wait | None:
        takes_s = speed.of(way_of(one)).needs_s(one.candidate.size, seeded=terms.seed)
        return schedule.obstacle(at, takes_s, window=terms.window)

    waits = {one.candidate.name: found for one in placements if (found := wait(one)) is not None}
    return {name: found for name, found in waits.items() if found.for_good or not terms.seed}


@dataclass
class _Survey:
    """What guests and destinations have answered."""

    guests: Mapping[str, Guest]
    tried: bool
    """The destinations start the guests' QEMUs for a moment."""
    options: Mapping[str, MigrationOptions]
    """{guest: how it is moved}."""
    inspections: dict[str, Inspection] = field(default_factory=dict)
    immovable: dict[str, str] = field(default_factory=dict)
    targets: Targets | None = None
    refusals: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """{(guest, destination): why not, None if it may}."""

    def ask_guests(self) -> None:
        def ask(name: str) -> None:
            self.inspections[name] = preflight.movable(self.guests[name], self.options[name])

        self.immovable |= _refused(ask, self.guests.keys() - self.immovable.keys())

    def ask_destinations(self, made: DrainPlan) -> bool:
        """Ask about placements that are new; true if one of them was refused, so that the plan must be made anew."""

        def ask(pair: tuple[str, str]) -> None:
            guest, destination = pair
            how = self.options[guest]
            preflight.planned_at(destination, self.guests[guest], self.inspections[guest], how, tried=self.tried)

        pairs = {(one.candidate.name, one.destination) for one in made.placements} - set(self.refusals)
        refused = _refused(ask, pairs)
        self.refusals |= {pair: refused.get(pair) for pair in pairs}
        return bool(refused)

    def candidate(self, guest: Guest) -> Candidate:
        """With what the hosts have answered."""
        refused, targets, how = self.refused_by(guest.name), self.targets, self.options[guest.name]
        if targets is None:
            return candidate(guest, how, preferred=None, refused_by=refused)
        turn = list(targets).index(guest.name)
        return candidate(guest, how, preferred=None, refused_by=refused, only=targets[guest.name], turn=turn)

    def refused_by(self, guest: str) -> dict[str, str]:
        return {host: why for (name, host), why in self.refusals.items() if name == guest and why}


def _refused(ask: Callable[[Asked], None], about: Iterable[Asked]) -> dict[Asked, str]:
    """Ask about several at once; returns what was refused, and why. Without a broker nobody is asked, and none is."""

    def why(one: Asked) -> str | None:
        try:
            ask(one)
        except NoBroker:
            raise
        except PreconditionFailed as error:
            return str(error)
        return None

    asked = list(about)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return {one: said for one, said in zip(asked, pool.map(why, asked), strict=True) if said}


def _placed(request: DrainRequest, survey: _Survey) -> DrainPlan:
    with transaction() as session:
        rows = session.scalars(select(Guest).where(Guest.name.in_(list(survey.inspections)))).all()
        candidates = [survey.candidate(guest) for guest in rows]
        return placed(session, request.kind, request.host, request.where, candidates)


def placed(
    session: Session, kind: DrainKind, host: str, where: AllowedHosts, candidates: Sequence[Candidate]
) -> DrainPlan:
    """Place guests by what the rows say now."""
    rooms = capacity.rooms(session, settings(), planning=[candidate.name for candidate in candidates])
    if kind is DrainKind.RETURN:
        rooms = {host: replace(rooms[host], closed=None)}  # a return opens its host
    return plan(candidates, rooms, _residents(session, candidates), to=where.to, exclude=where.exclude)


def candidate(
    guest: Guest,
    how: MigrationOptions | None = None,
    *,
    preferred: str | None,
    refused_by: Mapping[str, str],
    promised: bool = False,
    only: str | None = None,
    turn: int = 0,
) -> Candidate:
    """A guest as the planner sees it."""
    return Candidate(
        name=guest.name,
        source=guest.host,
        size=Size.of(guest),
        activity=guest.activity,
        priority=guest.priority,
        affinity=guest.affinity,
        anti_affinity=guest.anti_affinity,
        preferred=preferred,
        refused_by=refused_by,
        promised=promised,
        only=only,
        turn=turn,
        asked_bytes_per_s=how.bandwidth_bytes_per_s if how is not None else 0,
    )


def _residents(session: Session, candidates: Iterable[Candidate]) -> list[Resident]:
    """All other guests that belong to a group, where they are and where they are being moved to."""
    grouped = Guest.affinity.is_not(None) | Guest.anti_affinity.is_not(None)
    others = Guest.name.not_in([candidate.name for candidate in candidates]) & grouped
    living = select(Guest.host, Guest.affinity, Guest.anti_affinity).where(others)
    arriving = (
        select(Job.destination, Guest.affinity, Guest.anti_affinity)
        .join(Guest, Guest.name == Job.guest)
        .where(others, Job.state.in_(BEGUN), Job.destination != Guest.host)
    )
    rows = [*session.execute(living), *session.execute(arriving)]
    return [
        Resident(host=host, affinity=affinity, anti_affinity=anti_affinity) for host, affinity, anti_affinity in rows
    ]


def keep(kind: DrainKind, guests: Iterable[Guest], at: datetime) -> dict[str, str]:
    """Guests that an operator keeps from drains, and why."""
    stays = {guest.name: guest.stays(at) for guest in guests} if kind is DrainKind.DRAIN else {}
    return {name: why for name, why in stays.items() if why is not None}


def guests_of(session: Session, kind: DrainKind, host: str, selector: Selector = EVERYBODY) -> list[Guest]:
    """Those to be moved: all that live on the host, or those that left it by a drain and have not been home since."""
    wanted = selector.condition(Guest.labels)
    if kind is DrainKind.DRAIN:
        return list(session.scalars(select(Guest).where(Guest.host == host, wanted).order_by(Guest.name)))
    there = or_(Job.source == host, Job.destination == host)
    been_home = exists().where(
        Job.guest == DrainGuest.guest, Job.id > DrainGuest.job_id, Job.state == JobState.DONE, there
    )
    drained = (
        select(DrainGuest.guest)
        .join(Drain)
        .where(Drain.host == host, Drain.kind == DrainKind.DRAIN, DrainGuest.state == GuestState.MOVED, ~been_home)
    )
    query = select(Guest).where(Guest.name.in_(drained), Guest.host != host, wanted).order_by(Guest.name)
    return list(session.scalars(query))


def check_hosts(session: Session, request: DrainRequest) -> None:
    """Refuse unknown names of hosts, and a choice of destinations that leaves none.

    Raises:
        PreconditionFailed: one is unknown, or none is left.
    """
    known(session, [request.host, *request.where.to, *request.where.exclude])
    if request.kind is DrainKind.DRAIN:
        check_choice(request.where, request.host)
    elif request.where != AllowedHosts():
        raise PreconditionFailed(f"a return is to {request.host} alone: leave `to` and `exclude` out")


def check_choice(where: AllowedHosts, host: str) -> None:
    """Refuse a choice of destinations for a host that is emptied which leaves none, or contradicts itself.

    Raises:
        PreconditionFailed: it does.
    """
    if where.to and not set(where.to) - set(where.exclude) - {host}:
        raise PreconditionFailed(f"no destination is left: each of {', '.join(where.to)} is {host} itself, or excluded")
    if both := ", ".join(sorted({*where.to} & {*where.exclude})):
        raise PreconditionFailed(f"guests are to go to {both}, and not to: name it once, by --to or by --exclude")


def known(session: Session, hosts: Iterable[str]) -> None:
    """Refuse unknown names of hosts.

    Raises:
        PreconditionFailed: one is unknown.
    """
    names = set(session.scalars(select(Host.name).where(listed(settings()))))
    for host in hosts:
        if host not in names:
            raise not_there.host(session, host)
