"""The documents in the JSON columns of jobs, drains and hosts; a job's plan is in `models.plan`."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainSerializer, Strict

from drover.names import OptionalName
from drover.settings import StreamSecurity
from models.contracts import Json, Many, Part, Versioned, nested
from models.plan import Chain, Layout
from models.succession import Succession

DOWNTIME_MS = 300
"""The default target downtime."""
MOST_DOWNTIME_MS = 2_000_000
"""QEMU takes no more."""
VERIFY_BYTES_PER_S = 200_000_000
"""Leaves most of what a disk can do to the guests."""
CLOCK = r"(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)"

Moment = Annotated[datetime, Strict(False), PlainSerializer(datetime.isoformat, when_used="json")]

Streams = Annotated[StreamSecurity, Strict(False)]


def renamed(old: str, new: str, document: Json) -> Json:
    """The document with a field under its new name."""
    return {new if name == old else name: value for name, value in document.items()}


class Measure(StrEnum):
    """What is done about a guest that changes its RAM, or writes to its disks, as fast as they are sent.

    Postcopy is none of them: see `workers.convergence`.
    """

    SLOW_CPU = "slow-cpu"
    """QEMU keeps the guest from running for a part of its time, from the second pass over its RAM on."""
    SLOW_WRITES = "slow-writes"
    """While its disks are copied the guest may write less, by limits of its own drives."""
    LONGER = "longer"
    """It may be paused for longer, up to `most_downtime_ms`."""
    ASK = "ask"
    """An operator is asked, for the fleet's `stalled-after`."""
    GIVE_UP = "give-up"
    """The attempt is given up, and the copy of the disks kept in sync."""


def each_once(ladder: tuple[Measure, ...]) -> tuple[Measure, ...]:
    """A measure that comes twice is a mistake.

    Raises:
        ValueError: one does.
    """
    if len(set(ladder)) < len(ladder):
        raise ValueError("each measure once is wanted")
    return ladder


Ladder = Annotated[tuple[Annotated[Measure, Strict(False)], ...], Strict(False), AfterValidator(each_once)]
LADDER = (Measure.SLOW_CPU, Measure.LONGER, Measure.ASK, Measure.GIVE_UP)
SLOWEST_WRITES = 1_000_000
"""Bytes per second that a guest may always write to each disk."""


class Notice(Versioned):
    """Who is asked whether a guest may be moved now, before a drain moves it. One of the first two."""

    url: str | None = None
    """It gets a signed POST, see `drover.controller.notices`."""
    program: Many[str] = ()
    """Its name in the controllers' folder of hooks, and its arguments."""
    deadline_s: float = Field(default=10.0, gt=0, le=600)
    silence: Literal["wait", "go-on"] = "wait"
    """Without an answer by the deadline the guest waits and it is asked again, or the guest is moved."""

    def __str__(self) -> str:
        """For people: of an address the host alone, for the rest may hold a password."""
        return " ".join(self.program) if self.url is None else str(urlsplit(self.url).hostname)


class MigrationOptions(Versioned):
    """How a guest is to be moved.

    Of a drain it is as asked for; of a job what was left out is filled in by policies, as `policies` says.
    """

    UPGRADES = {0: lambda document: renamed("max_blackout_ms", "max_downtime_ms", document)}  # noqa: RUF012

    max_downtime_ms: int = DOWNTIME_MS
    """The target downtime: RAM is copied until the rest can be sent in this time."""
    most_downtime_ms: int = 0
    """To what the target may be raised if RAM changes as fast as it is sent; 0: not at all."""
    bandwidth_bytes_per_s: int = 0
    """Of this job's streams; 0 leaves it to the host's budget."""
    window_end: Literal["wait", "rollback"] = "wait"
    """When its window closes before its switchover: it waits in sync for the next one, or is rolled back."""
    verify: bool = False
    """Both sides of each disk are compared after the switchover, before the source's are let go."""
    verify_bytes_per_s: int = VERIFY_BYTES_PER_S
    """What is read on either host for that; 0: no limit."""
    launcher_stays: bool = False
    """Move it although its launcher may start it again; its image is made unusable there before its QEMU is ended."""
    drop_snapshots: bool = False
    """Move it although its images hold internal snapshots: those stay in the former images."""
    chain: Chain = "keep"
    """What becomes of the backing files of its disks."""
    thin_factor: float | None = None
    """How far the destination's storage may be over-committed for this move; None: as it is set there."""
    layout: Layout = Layout()
    """What is wanted of its disks at the destination."""
    retention_s: float | None = None
    """How long its former images are kept; None: as its source's host or the fleet keeps them."""
    watch_s: float | None = None
    """How long it is looked at after the switchover; None: as the destination's worker is set."""
    hooks: OptionalName = None
    """A set of hooks of both hosts' administrators that runs besides the others."""
    check: OptionalName = None
    """The check, by its name in the destination's file, that tells whether it is well; None: its own."""
    ladder: Ladder = LADDER
    """What is done about a guest that does not converge, in this order."""
    slowest_writes_bytes_per_s: int = SLOWEST_WRITES
    """A guest is not slowed to less than this for each of its disks."""
    notice: Annotated[Notice, nested(Notice)] | None = None
    """Who is asked before a drain moves the guest; None: nobody."""
    given: Many[str] = ()
    """Fields that somebody asked for, also where they are as by default: no policy has a say in them."""
    policies: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it
    """{field: the policy that its value is from}."""

    @property
    def asked_for(self) -> frozenset[str]:
        """The fields that no policy has a say in. A drain of before there were policies lists none."""
        changed = {
            name
            for name, field in type(self).model_fields.items()
            if name in DECIDED_BY_POLICIES and name not in self.policies and getattr(self, name) != field.default
        }
        return frozenset(self.given) | changed

    def public(self) -> Json:
        """For output to users."""
        return super().public() | {"notice": self.notice and str(self.notice)}

    def asking(self, **wanted: object) -> Self:
        """With these fields as somebody asks for them; None leaves one as it is."""
        values = {name: value for name, value in wanted.items() if value is not None}
        given = sorted({*self.given, *(values.keys() & DECIDED_BY_POLICIES)})
        left = {name: policy for name, policy in self.policies.items() if name not in values}
        return type(self).model_validate(self.json_object() | values | {"given": given, "policies": left})


DECIDED_BY_POLICIES = frozenset(
    {
        "max_downtime_ms",
        "most_downtime_ms",
        "bandwidth_bytes_per_s",
        "verify",
        "verify_bytes_per_s",
        "retention_s",
        "watch_s",
        "hooks",
        "check",
        "notice",
        "ladder",
        "slowest_writes_bytes_per_s",
    }
)
"""Fields of `MigrationOptions` that a policy may decide, see `workflows.policies`."""


class NbdServer(Versioned):
    """The NBD server that serves the job's images now. `start_nbd` writes it."""

    nonce: str
    """Part of the names of its exports."""
    address: str
    port: int
    streams: Streams = StreamSecurity.PLAIN
    """How the job's streams are protected; Drover 0.1 knew nothing but plain text."""
    sealed: str | None = None
    """What the source needs to connect, sealed for its host key. None: a worker of Drover 0.1 wrote the rest."""


class FileCopy(Versioned):
    """The files that the guest needs besides its disks, as far as they had to be copied. `copy_files` writes it."""

    missing: Many[int] = ()
    """Their places among those of the plan; none is left once the source has sent all."""
    bytes_total: int = 0
    bytes_copied: int = 0


class Range(Part):
    """A part of a guest's disk, in bytes."""

    offset: int
    length: int


class DiskProof(Part):
    """How the copy of one disk was compared with its original after the switchover, in bytes of the guest's disk."""

    index: int
    bytes_total: int
    bytes_compared: int
    """The comparison has come so far. The next three add up to it at the end; they are 0 before."""
    bytes_equal: int = 0
    bytes_left_out: int = 0
    """They differ because the guest has written them since the switchover."""
    bytes_different: int = 0
    """They differ although it has not."""
    different: Many[Range] = ()
    """Where, the first thousand places."""


class Proof(Versioned):
    """What `--verify` found. `compare_images` writes it at the source."""

    disks: Many[DiskProof] = ()
    finished: bool = False
    """All of all disks was compared."""
    not_proven: str | None = None
    """Why that was given up: nothing is known of what was not compared."""

    @property
    def bytes_different(self) -> int:
        """Of all disks."""
        return sum(disk.bytes_different for disk in self.disks)


class Health(Versioned):
    """How a guest is after its switchover. `check_guest` writes it at the destination."""

    finished: bool = False
    """It was looked at."""
    runstate: str | None = None
    """QEMU's."""
    reads: int = 0
    """Of its disks while it was looked at; likewise the next."""
    writes: int = 0
    agent_before: bool | None = None
    """Whether its agent answered at the source; None: it has none. `migrate_ram` writes it there."""
    agent: bool | None = None
    """Whether it answers at the destination."""
    problems: Many[str] = ()
    """What is wrong; empty: it is well."""
    seconds: float = 0.0
    """For how long it was looked at."""


class Switchover(Versioned):
    """The present attempt at the switchover. `migrate_ram` writes it on the destination."""

    attempt: int
    """The token of the claim that began it."""


Instant = Annotated[float, Field(ge=0, le=1 << 36)]
"""Of which a date can be made: none after the year 4147."""


class Downtime(Versioned):
    """How long the guest was paused, by the source's clock.

    Null where a switchover process died and only the outcome is known.
    """

    ms: float | None = None
    phases: dict[str, float] = Field(default_factory=dict)
    """{name: ms}, see `models.job.DOWNTIME_PHASES`."""
    stopped_at: Instant | None = None
    """In seconds since 1970, like the next."""
    resumed_at: Instant | None = None


class RamProgress(Versioned):
    """How much of the guest's RAM has been sent."""

    status: str = "none"
    """QEMU's, of the migration."""
    transferred: int = 0
    remaining: int = 0
    total: int = 0
    bytes_per_s: int = 0
    changed_per_s: int = 0
    """What the guest changed in the last pass, in bytes per second."""
    passes: int | None = None
    """Over all of the RAM."""
    expected_downtime_ms: int = 0
    """In which what had changed at the end of the last pass could be sent, as QEMU estimates it; 0: not known."""
    throttle_percent: int = 0
    """Of its time that QEMU keeps the guest from running, so that less changes."""
    downtime_limit_ms: int | None = None
    """What the guest may be paused for now."""
    limit_per_s: int = 0
    """What may be sent now, in bytes per second; 0: no limit."""


class Pace(Versioned):
    """How fast a job's disks are copied now, or its files before them. The worker of its source writes it; rates in
    bytes per second.
    """

    copied_per_s: float = 0.0
    """Over the last seconds."""
    written_per_s: float = 0.0
    """What the guest wrote anew where it had been copied before, likewise: it has to be copied again."""
    limit_per_s: int = 0
    """What all its mirrors may take together now; 0: no limit."""
    copied_under_per_s: int = 0
    """Likewise while there was a limit: it is lifted for the last stretch. 0: there was none."""
    slowed_per_s: int = 0
    """What the guest may write to each disk meanwhile; 0: as much as it may at other times."""
    files_left: int = 0
    """Bytes of files that are to be copied still; 0: it is about disks."""


class Estimate(Versioned):
    """What a move was expected to take when it was submitted, in seconds without waiting for anything."""

    copy_s: float
    """Until its disks are equal on both sides."""
    switch_s: float
    """The rest: RAM, switchover, and what each move takes whatever its size."""
    copy_bytes: int
    link_bytes_per_s: float
    """What the disks get between these hosts without a limit."""
    limit_bytes_per_s: int = 0
    """0: none."""
    moves: int = 0
    """How many earlier moves it is from; 0: it is assumed."""
    last_stretch_s: float = 0.0
    """The part of `copy_s` after all was copied once: a guest that writes all the time keeps a limited mirror going."""
    dirtied_per_s: float = 0.0
    """What of its disks has to be sent again per second because of that, in bytes."""
    ram_bytes: int = 0
    """What is sent of the guest's RAM."""
    ram_s: float = 0.0
    """The part of `switch_s` that this takes; the rest is before the copy, in the pause, and after it."""
    downtime_ms: float | None = None
    """How long the guest stands still; None: not known, because nothing was moved yet."""
    never: str | None = None
    """Why the move would not come to its end by itself, as a sentence; None: it would."""

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.copy_s + self.switch_s


class Window(Versioned):
    """The hours of every day in which a move may be under way; a window may go over midnight.

    The time zone is looked up when the window is used: another machine's list of them may be newer.
    """

    start: str = Field(pattern=f"^{CLOCK}$")
    end: str = Field(pattern=f"^{CLOCK}$")
    timezone: str


class Recurrence(Versioned):
    """When a drain is repeated."""

    cron: str
    """Five fields: `0 22 * * 6`."""
    timezone: str


class AllowedHosts(Versioned):
    """Where the guests of a drain may go."""

    to: Many[str] = ()
    """Only to these; none is to all of them."""
    exclude: Many[str] = ()


class SeenQemu(Part):
    """A QEMU that runs on a host, as its process alone shows it."""

    process: str
    """See `workers.process.processes.identity`."""
    pid: int
    name: str | None = None
    """Of `-name`."""
    uuid: str | None = None
    macs: Many[str] = ()
    """Those that were given to its cards."""
    job: int | None = None
    """The job that has brought it here."""
    user: str | None = None
    """As whom it runs; null: a worker of an earlier version looked."""


class SeenQemus(Versioned):
    """All that run on a host."""

    qemus: Many[SeenQemu] = ()


class HostFacts(Versioned):
    """What a host's worker reports about its machine."""

    cpus: int | None = None
    memory_bytes: int | None = None
    qemu: str | None = None
    """First line of `--version`."""
    machine: str | None = None
    """Equal for workers that reach each other by loopback addresses, see `workers.process.machine`."""
    concurrency: int | None = None
    """Steps that its worker runs at the same time."""
    machine_id: str | None = None
    """Likewise, `machine_id`."""
    streams: Streams | None = None
    """How it protects the streams of moves; None: a worker of Drover 0.1."""
    successions: Many[Succession] = ()
    """How it came to its present key, if it had others before."""


class Hook(Versioned):
    """What a roll has done to a host that is empty."""

    argv: Many[str] = Field(min_length=1)
    """The name of a program in the controllers' folder of hooks, and its arguments."""
    timeout_s: float = Field(default=3600.0, gt=0)
    """It is ended after this time."""


class PlannedGuest(Versioned):
    """What the plan that a drain follows says of a guest; it is compared right before the guest's turn."""

    source: str
    cpus: int
    memory_bytes: int
    disk_bytes: int
    uuid: str | None = None
    estimate_s: float
    """How long its move takes."""
    policies: dict[str, str] | None = None
    """{option: value and policy}: what policies decide about its move; null: it is not compared."""


class HostBefore(Versioned):
    """What a host was before a hook worked on it."""

    incarnation: str
    """Of its worker: another one tells that it was started anew."""
    qemu: str | None = None
    """See `HostFacts.qemu`."""
