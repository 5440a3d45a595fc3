"""What moves are expected to take, from the dry run and in the middle of the copy, and what they took.

Forty moves of several kinds between two hosts: with and without limits, idle and writing guests, one disk and two, with
holes and without, one guest and three at once under the budget of their host.
"""

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bench.drains import job_by_now
from bench.figures import Figure
from bench.guests import Guest, booted
from bench.moves import HEAVY, IDLE, LIGHT, MIB
from drover.views import queries
from drover.views.queries import Snapshot
from drover.views.remaining import copy_s
from lab.directory import Lab
from lab.guest.spec import DiskSpec
from models.database import transaction
from models.documents import MigrationOptions
from models.drain import Drain, DrainKind
from models.fleet import FleetLimits
from models.job import JobState
from workflows import guests as records
from workflows import hosts
from workflows.drain import commands, planner
from workflows.drain.planner import DrainRequest
from workflows.migration import jobs, preflight
from workflows.submit_options import SubmitOptions
from workflows.timetable import way_of

LOOK_S = 0.5
SETTLED_S = 8.0
"""A guest that was stopped meanwhile does what it always does by then."""
BUDGET = 24 * MIB
RECORDS = "estimates.csv"
CLOSE, CLOSER, PAUSE = 0.2, 0.1, 0.5
PART = 0.9
"""Of the moves that have to be that close."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Guests that are alike, and how they are moved."""

    name: str
    moves: int
    load: dict[str, Any] = field(default_factory=lambda: dict(IDLE))
    disk_mib: Sequence[int] = (512,)
    fill_mib: int = 64
    format: Literal["qcow2", "raw"] = "qcow2"
    limit: int = 0
    guests: int = 1
    """At once, by a drain."""

    @property
    def disks(self) -> tuple[DiskSpec, ...]:
        """Of each of its guests."""
        return tuple(DiskSpec(size_bytes=mib * MIB, format=self.format) for mib in self.disk_mib)


KINDS = (
    Kind(name="large", moves=3, load=LIGHT, disk_mib=(2048,), fill_mib=1024),
    Kind(name="small", moves=4, disk_mib=(256,)),
    Kind(name="limited", moves=4, fill_mib=128, limit=16 * MIB),
    Kind(name="slow", moves=3, limit=5 * MIB),
    Kind(name="writer", moves=4, load=LIGHT, fill_mib=128, limit=16 * MIB),
    Kind(name="heavy", moves=4, load=HEAVY, fill_mib=192, limit=24 * MIB),
    Kind(name="two-disks", moves=3, load=LIGHT, disk_mib=(256, 512), limit=16 * MIB),
    Kind(name="sparse", moves=3, disk_mib=(8192,), fill_mib=128, limit=16 * MIB),
    Kind(name="raw", moves=3, load=LIGHT, format="raw", fill_mib=96, limit=16 * MIB),
    Kind(name="three", moves=9, load=LIGHT, fill_mib=64, guests=3),
)
QUICK_KINDS = (
    Kind(name="limited", moves=2, limit=16 * MIB),
    Kind(name="writer", moves=2, load=LIGHT, limit=16 * MIB),
    Kind(name="three", moves=3, load=LIGHT, fill_mib=32, guests=3),
)


@dataclass(kw_only=True)
class Record:
    """One move: seconds, but the downtime in ms."""

    kind: str
    guest: str
    dry_run_s: float
    dry_run_downtime_ms: float | None
    """None: nobody was moved before."""
    half_s: float | None = None
    """All of it, as expected at half of the copy."""
    total_s: float = 0.0
    copy_s: float = 0.0
    downtime_ms: float = 0.0

    @property
    def dry_run_off(self) -> float:
        """By what part of the outcome the dry run was wrong. Likewise the next two."""
        return abs(self.dry_run_s / self.total_s - 1)

    @property
    def half_off(self) -> float | None:
        """None: the copy was over before anybody could look."""
        return None if self.half_s is None else abs(self.half_s / self.total_s - 1)

    @property
    def downtime_off(self) -> float | None:
        """None: it was not known beforehand."""
        return None if self.dry_run_downtime_ms is None else abs(self.dry_run_downtime_ms / self.downtime_ms - 1)

    def __str__(self) -> str:
        half = "-" if self.half_s is None else f"{self.half_s:.1f}"
        paused = "-" if self.dry_run_downtime_ms is None else f"{self.dry_run_downtime_ms:.0f}"
        return (
            f"{self.guest}: dry run {self.dry_run_s:.1f} s (paused {paused} ms), at half {half} s, "
            f"took {self.total_s:.1f} s (copy {self.copy_s:.1f}, paused {self.downtime_ms:.0f} ms)"
        )


def measure(lab: Lab, folder: Path, *, quick: bool) -> list[Figure]:
    """Each kind in turns, so that what is learnt of one is used for another; the others rest meanwhile."""
    kinds = QUICK_KINDS if quick else KINDS
    made: list[Record] = []
    with ExitStack() as stack:
        theirs = {kind.name: _booted(lab, stack, kind) for kind in kinds}
        for number in range(max(kind.moves // kind.guests for kind in kinds)):
            for kind in kinds:
                if number < kind.moves // kind.guests:
                    made += _moved(kind, theirs[kind.name])
    _write(made, folder)
    return figures(made)


def _booted(lab: Lab, stack: ExitStack, kind: Kind) -> list[Guest]:
    found = []
    for number in range(kind.guests):
        name = f"{kind.name}-{number}" if kind.guests > 1 else kind.name
        guest = stack.enter_context(booted(lab, name, disks=kind.disks, fill_mib=kind.fill_mib, **kind.load))
        guest.rest()
        stack.callback(guest.go_on)
        found.append(guest)
    return found


def _moved(kind: Kind, guests: list[Guest]) -> list[Record]:
    to = "host-b" if guests[0].host == "host-a" else "host-a"
    for guest in guests:
        guest.go_on()
    time.sleep(SETTLED_S)
    made = _drained(kind, guests, to) if kind.guests > 1 else [_alone(kind, guests[0], to)]
    for guest in guests:
        guest.moved_to(to)
        guest.rest()
    for record in made:
        print(f"  {record}", flush=True)
    return made


def _alone(kind: Kind, guest: Guest, to: str) -> Record:
    name, options = guest.spec.name, MigrationOptions(bandwidth_bytes_per_s=kind.limit)
    row = records.known_guest(name)
    planned = preflight.plan(row, to, options, tried=True)
    expected = preflight.estimated(row, to, options, SubmitOptions(), planned)
    record = Record(kind=kind.name, guest=name, dry_run_s=expected.total_s, dry_run_downtime_ms=expected.downtime_ms)
    job = jobs.submit(name, to, options=options)
    _followed([record], lambda _: job.id)
    return record


def _drained(kind: Kind, guests: list[Guest], to: str) -> list[Record]:
    source = guests[0].host
    with _budget():
        plan = planner.forecast(DrainRequest(kind=DrainKind.DRAIN, host=source), tried=True)
        made = [
            Record(
                kind=kind.name,
                guest=move.candidate.name,
                dry_run_s=plan.move_s(move),
                dry_run_downtime_ms=plan.speed.of(way_of(move)).pause_ms,
            )
            for move in plan.plan.placements
        ]
        drain = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host=source))
        _followed(made, lambda record: job_by_now(drain.id, record.guest))
        _until_ended(drain.id)
    hosts.uncordon(source)
    return made


def _until_ended(drain_id: int) -> None:
    while True:
        with transaction() as session:
            if session.get_one(Drain, drain_id).state.ended:
                return
        time.sleep(LOOK_S)


@contextmanager
def _budget() -> Iterator[None]:
    _limit(BUDGET)
    yield
    _limit(0)


def _limit(rate: int) -> None:
    with transaction() as session:
        session.get_one(FleetLimits, True).bandwidth_bytes_per_s = rate


def _followed(made: Sequence[Record], job_of: Callable[[Record], int | None]) -> None:
    """Look at each job as soon as there is one, until all have ended."""
    going = list(made)
    while going:
        time.sleep(LOOK_S)
        for record, number in [(record, job_of(record)) for record in going]:
            if number is None:
                continue
            shot = queries.snapshot(number)
            _noted(record, shot)
            if shot.ended:
                assert shot.job.state is JobState.DONE, f"job {number} is {shot.job.state}: {shot.job.error}"
                going.remove(record)


def _noted(record: Record, shot: Snapshot) -> None:
    done, size = (sum(getattr(disk, of) for disk in shot.job.disks) for of in ("bytes_done", "bytes_size"))
    copying = any(disk.ready_at is None for disk in shot.job.disks)
    if record.half_s is None and copying and 2 * done >= size:
        record.half_s = shot.expected_s
    if shot.ended and shot.total_s is not None and shot.job.downtime is not None:
        record.total_s, record.downtime_ms = shot.total_s, shot.job.downtime.ms or 0.0
        record.copy_s = copy_s(shot.job) or 0.0


def _write(made: Sequence[Record], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RECORDS).open("w", newline="") as file:
        lines = csv.DictWriter(file, [field.name for field in fields(Record)])
        lines.writeheader()
        for record in made:
            shown = {
                name: round(value, 1) if isinstance(value, float) else value for name, value in asdict(record).items()
            }
            lines.writerow(shown)


def figures(made: Sequence[Record]) -> list[Figure]:
    """The shares that are as close as they have to be."""
    return [
        _share(made, "estimate-dry-run", "total time by the dry run", lambda one: one.dry_run_off, CLOSE),
        _share(made, "estimate-half", "total time by half of the copy", lambda one: one.half_off, CLOSER),
        _looked_at(made),
        _share(made, "estimate-downtime", "downtime by the dry run", lambda one: one.downtime_off, PAUSE),
    ]


def _looked_at(made: Sequence[Record]) -> Figure:
    """The others were copied so quickly that no look fell between half of that and its end."""
    seen = sum(one.half_s is not None for one in made)
    return Figure(
        name="estimate-looked-at",
        what=f"moves of {len(made)} that were looked at between half of their copy and its end",
        value=float(seen),
    )


def _share(
    made: Sequence[Record], name: str, what: str, off: Callable[[Record], float | None], within: float
) -> Figure:
    known = [(one, found) for one in made if (found := off(one)) is not None]
    kinds = {one.kind: [100 * found for each, found in known if each.kind == one.kind] for one in made}
    return Figure(
        name=name,
        what=f"{what}: part of {len(known)} moves in which it was right within {100 * within:.0f} %",
        value=sum(found <= within for _, found in known) / max(len(known), 1),
        at_least=PART,
        far=0.2,
        series={kind: values for kind, values in kinds.items() if values},
        axis=f"{what}, % off",
    )
