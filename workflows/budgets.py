"""What moves may send, disks and RAM together: by host, by link, over the whole fleet, and by the time of day.

Every worker computes the shares of all moves from the same rows, so that they agree without talking to each other.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import BigInteger, String, column, delete, select, table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from drover import names
from drover.errors import PreconditionFailed
from models import decision_log, fleet
from models.base import now
from models.budget import BandwidthHours, Budget, Hours
from models.columns import Typed
from models.database import transaction
from models.fleet import SLOWEST_BYTES_PER_S
from models.job import Job
from workflows import not_there, schedule
from workflows.hosts import labels_of
from workflows.selectors import Selector


@dataclass(frozen=True, kw_only=True)
class Link:
    """A budget between some hosts and some hosts, as it is at one moment."""

    name: str
    source: Selector
    destination: Selector
    bytes_per_s: int

    def covers(self, source: Mapping[str, str], destination: Mapping[str, str]) -> bool:
        """A move between hosts with these labels takes part in it."""
        return self.source.matches(source) and self.destination.matches(destination)


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """All budgets as they are at one moment, in bytes per second; 0 is no limit."""

    hosts: Mapping[str, int] = field(default_factory=dict)
    """Of what leaves each host."""
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    links: Sequence[Link] = ()

    def lowest(self, source: str, destination: str) -> int:
        """What one move between these hosts may take if it is the only one; 0: no limit."""
        ends = self._ends(source, destination)
        rates = [self.hosts.get(source, 0), *(link.bytes_per_s for link in self.links if link.covers(*ends))]
        return min(filter(None, rates), default=0)

    def shares(self, moves: Mapping[int, "Move"]) -> dict[int, int]:
        """What each of these moves may take of what all of them share; 0: no limit."""
        leaving = {one.source for one in moves.values()}
        limits = [(self.hosts.get(host, 0), [n for n, one in moves.items() if one.source == host]) for host in leaving]
        limits += [
            (link.bytes_per_s, [n for n, one in moves.items() if link.covers(*self._ends(one.source, one.destination))])
            for link in self.links
        ]
        return shared({n: move.asked_bytes_per_s for n, move in moves.items()}, limits)

    def _ends(self, source: str, destination: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
        return self.labels.get(source, {}), self.labels.get(destination, {})


@dataclass(frozen=True, kw_only=True)
class Move:
    """A move that sends something."""

    source: str
    destination: str
    asked_bytes_per_s: int = 0
    """0: as much as the budgets allow."""


def shared(asked: Mapping[int, int], limits: Iterable[tuple[int, Collection[int]]]) -> dict[int, int]:
    """Give all the same until something holds one of them back; what it leaves is shared by the others. No I/O.

    Args:
        asked: {move: its own limit in bytes per second, 0 for none}.
        limits: bytes per second, 0 for none, and the moves that share it.
    """
    budgets = [(rate, frozenset(members)) for rate, members in limits if rate]
    left = [float(rate) for rate, _ in budgets]
    waiting, given = set(asked), dict.fromkeys(asked, 0)
    while waiting:
        holds = [(float(asked[one]), {one}) for one in waiting if asked[one]]
        holds += [
            (rate / len(members & waiting), set(members & waiting))
            for rate, (_, members) in zip(left, budgets, strict=True)
            if members & waiting
        ]
        if not holds:
            break  # nothing limits the rest
        level, held = min(holds, key=lambda hold: hold[0])
        given |= dict.fromkeys(held, max(int(level), 1))
        left = [max(rate - level * len(members & held), 0.0) for rate, (_, members) in zip(left, budgets, strict=True)]
        waiting -= held
    return given


def rate_at(always: int, hours: BandwidthHours | None, at: datetime) -> int:
    """The rate that holds at a time: that of the first hours that are open, else that of all day."""
    for one in hours.hours if hours is not None else ():
        opens, _ = schedule.Window.of(one.window).at_or_after(at)
        if opens <= at:
            return one.bytes_per_s
    return always


HOSTS = table(
    "host_budget",
    column("name", String),
    column("labels", JSONB),
    column("bandwidth_bytes_per_s", BigInteger),
    column("bandwidth_hours", Typed(BandwidthHours)),
)
"""A view: the role of a host sees no other host's row. Likewise the next."""
MOVES = table(
    "move_under_way",
    column("id", BigInteger),
    column("source", String),
    column("destination", String),
    column("asked_bytes_per_s", BigInteger),
)
"""Those that copy files or disks, or send RAM; not yet one whose images are being prepared."""


def current(session: Session) -> Budgets:
    """All budgets as they are now."""
    at, of_each = now(session), fleet.limits(session).bandwidth_bytes_per_s
    hosts = session.execute(select(HOSTS)).all()
    rows = session.scalars(select(Budget).order_by(Budget.name)).all()
    own = {row.name: of_each if row.bandwidth_bytes_per_s is None else row.bandwidth_bytes_per_s for row in hosts}
    return Budgets(
        hosts={row.name: rate_at(own[row.name], row.bandwidth_hours, at) for row in hosts},
        labels={row.name: labels_of(row.name, row.labels) for row in hosts},
        links=[
            Link(
                name=row.name,
                source=Selector.read(row.source),
                destination=Selector.read(row.destination),
                bytes_per_s=rate_at(row.bytes_per_s, row.hours, at),
            )
            for row in rows
        ],
    )


def under_way(session: Session) -> dict[int, Move]:
    """The moves that share the budgets now, by their jobs' numbers."""
    return {
        row.id: Move(source=row.source, destination=row.destination, asked_bytes_per_s=row.asked_bytes_per_s)
        for row in session.execute(select(MOVES))
    }


def rate_of(job: Job, *, asked_bytes_per_s: int | None = None) -> int:
    """What a job's streams may take together now, in bytes per second; 0: no limit.

    Args:
        job: one that is under way. Of one that sends something its options count as they are in the database.
        asked_bytes_per_s: its own limit, if not that of its options.
    """
    asked = job.options.bandwidth_bytes_per_s if asked_bytes_per_s is None else asked_bytes_per_s
    with transaction() as session:
        moves = under_way(session)
        if asked_bytes_per_s is not None or job.id not in moves:
            moves[job.id] = Move(source=job.source, destination=job.destination, asked_bytes_per_s=asked)
        return current(session).shares(moves)[job.id]


def hours(texts: Iterable[str], timezone: str, rate: Mapping[str, int]) -> BandwidthHours | None:
    """From `08:00-20:00=200M/s`; None if there are none. `rate` has what is behind each `=`, in bytes per second.

    Raises:
        PreconditionFailed: hours are not understood or never hold, or the rate is too low.
    """
    made, taken = [], set[int]()
    for text in texts:
        window, _, wanted = text.partition("=")
        made.append(Hours(window=schedule.window(window, timezone), bytes_per_s=enough(rate[wanted])))
        minutes = schedule.Window.of(made[-1].window).minutes
        if minutes <= taken:
            raise PreconditionFailed(f"{text} never holds: hours before it count, name it before them")
        taken |= minutes
    return BandwidthHours(hours=tuple(made)) if made else None


def enough(bytes_per_s: int) -> int:
    """A rate that a mirror can live with: a lower one is one whose unit was forgotten.

    Raises:
        PreconditionFailed: it is too low.
    """
    if 0 < bytes_per_s < SLOWEST_BYTES_PER_S:
        lowest = f"{SLOWEST_BYTES_PER_S} bytes/s"
        raise PreconditionFailed(f"{bytes_per_s} bytes/s is too low: 0 (no limit), or at least {lowest}")
    return bytes_per_s


def define(
    name: str, source: str | None, destination: str | None, bytes_per_s: int, by_hours: BandwidthHours | None
) -> Budget:
    """Set the budget of this name.

    Raises:
        PreconditionFailed: the name, a selector or the rate cannot be that.
    """
    names.check(name, "a budget")
    for selector in (source, destination):
        Selector.read(selector)
    with transaction() as session:
        made = Budget(
            name=name,
            source=source or None,
            destination=destination or None,
            bytes_per_s=enough(bytes_per_s),
            hours=by_hours,
        )
        merged = session.merge(made)
        decision_log.add(session, f"an operator set the budget {name}")
    return merged


def remove(name: str) -> None:
    """Moves share it no more.

    Raises:
        NotThere: there is none.
    """
    with transaction() as session:
        if not session.execute(delete(Budget).where(Budget.name == name).returning(Budget.name)).all():
            raise not_there.budget(session, name)
        decision_log.add(session, f"an operator removed the budget {name}")
