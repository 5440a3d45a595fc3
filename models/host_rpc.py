"""What a host can be asked, and what it answers. The row of `host_request` holds both as documents."""

from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import Strict

from drover.errors import UnreadableDocument
from drover.names import GuestName, OptionalName
from models.contracts import Many, Part, Versioned, nested
from models.job import Side
from models.launcher import Launcher
from models.plan import Chain, DestinationPlan, Inspection, Layout
from models.preflight import Check

Answer = TypeVar("Answer", bound=Versioned)


class Question(Versioned, Generic[Answer]):
    """A question that only a host itself can answer."""

    kind: ClassVar[str]
    """As the row names it."""
    answer: ClassVar[type[Versioned]]
    """What is answered: the same type as the class's parameter."""


class Inspect(Question[Inspection]):
    """What is the guest behind this QMP socket?"""

    kind = "inspect"
    answer = Inspection

    qmp: str
    chain: Chain = "keep"
    """Flattened: backing files are not needed, and not looked at."""
    hooks: OptionalName = None
    """See `MigrationOptions.hooks`."""
    moves: bool = False
    """It is to be moved: what a copy of each disk takes is measured as well, which may last."""
    looks: bool = True
    """For how much the guest writes and changes of its RAM: that takes a second or two, see `DROVER_LOOK_S`."""


class PlanDestination(Question[DestinationPlan]):
    """Could this guest run on you, and how?"""

    kind = "plan_destination"
    answer = DestinationPlan

    guest: GuestName
    source_root: str
    """The source's guest root. This and the next are for workers that do not know of attestations."""
    source_machine: str | None = None
    """See `HostFacts.machine`."""
    source: Annotated[Inspection, nested(Inspection)]
    chain: Chain = "keep"
    thin_factor: float | None = None
    """See `MigrationOptions.thin_factor`."""
    layout: Layout = Layout()
    """See `Plan.layout`."""
    hooks: OptionalName = None
    """See `MigrationOptions.hooks`; likewise the next."""
    check: OptionalName = None
    tried: bool = False
    """The guest's QEMU is started there as a trial."""


class Observation(Versioned):
    """What a host sees of a guest that is, or was, being moved: facts only."""

    alive: bool
    """The QEMU process lives."""
    runstate: str | None = None
    """As QEMU reports it, like `migration`; null: its monitor gives no answer."""
    migration: str | None = None
    told_to_run: bool = False
    """Source only: its journal has `run`."""
    went_on: bool = False
    """Source only: the guest ran on there after its RAM had been sent."""
    may_run: bool = False
    """Destination only: the marker is written."""


class Observe(Question[Observation]):
    """What do you see of the guest of this job?"""

    kind = "observe"
    answer = Observation

    job_id: int
    side: Annotated[Side, Strict(False)]


class Orphan(Part):
    """Something that belongs to no unfinished job."""

    kind: str
    what: str
    job: int
    why: str
    removed: bool = False
    kept: str | None = None
    """Why it stays, or would stay."""


class Orphans(Versioned):
    """All that belongs to no unfinished job on a host."""

    finds: Many[Orphan]
    notes: Many[str]
    """What could not be looked at."""


class LookForOrphans(Question[Orphans]):
    """What is on you that belongs to no unfinished job?"""

    kind = "garbage"
    answer = Orphans

    unknown_jobs: bool
    """What belongs to jobs missing from the database counts as well."""


class CollectOrphans(LookForOrphans):
    """The same, and remove it."""

    kind = "collect_garbage"


class FoundMonitor(Part):
    """A monitor of a QEMU that clients can connect to."""

    address: str
    """Its path, or `tcp:HOST:PORT`."""
    qmp: bool
    """Else it is for people."""
    held_by: str | None = None
    """The client that is connected; null: nobody."""


class FoundQemu(Part):
    """A QEMU on a host, known to Drover or not."""

    process: str
    """See `Guest.process`."""
    pid: int
    name: str | None = None
    """Of `-name`."""
    uuid: str | None = None
    user: str
    """The name, or the number, of the user that it runs as."""
    launcher: Annotated[Launcher, nested(Launcher)]
    monitors: Many[FoundMonitor] = ()
    qmp: str | None = None
    """The monitor by which it was asked, and can be adopted; null: it was not."""
    job: int | None = None
    """The job that is at work with it: it was not asked."""
    checks: Many[Check] = ()
    """Those that are against a move, each with its remedy."""


class FoundQemus(Versioned):
    """All of a host."""

    qemus: Many[FoundQemu]


class FindQemus(Question[FoundQemus]):
    """Which QEMUs run on you, and which of them could be moved?"""

    kind = "find_qemus"
    answer = FoundQemus


class Sighting(Versioned):
    """What a host has of a guest."""

    launch_file: bool
    """It lives there, and can be started there."""
    pid: int | None = None
    """Of a QEMU that is this guest's; null: there is none."""
    process: str | None = None
    """See `Guest.process`."""
    qmp: str | None = None
    launcher: Annotated[Launcher, nested(Launcher)] | None = None


class LookForGuest(Question[Sighting]):
    """Is a QEMU of this guest alive on you?"""

    kind = "look_for_guest"
    answer = Sighting

    guest: GuestName
    uuid: str | None = None
    """The machine's, where it has one."""
    process: str | None = None
    """As it was last known, see `Guest.process`."""


class StartGuest(LookForGuest):
    """Start this guest, cold. It runs nowhere else."""

    kind = "start_guest"


class StopGuest(LookForGuest):
    """Ask this guest to power off."""

    kind = "stop_guest"


class Refusal(Versioned):
    """No answer, and why."""

    error: str = "no reason given"
    later: bool = False
    """The same question may be answered in a moment."""
    checks: Many[Check] = ()
    """Those that are against it, if it is a guest that is refused."""


QUESTIONS: dict[str, type[Question[Any]]] = {
    question.kind: question
    for question in (
        Inspect,
        PlanDestination,
        Observe,
        LookForOrphans,
        CollectOrphans,
        FindQemus,
        LookForGuest,
        StartGuest,
        StopGuest,
    )
}
"""By the name that stands in the row."""


def read_question(kind: str, question: object) -> Question[Any]:
    """The question of a row.

    Raises:
        UnreadableDocument: a later version asks it, or it does not match its type.
    """
    known = QUESTIONS.get(kind)
    if known is None:
        raise UnreadableDocument(f"a newer Drover asks for {kind!r}, which this one cannot answer: upgrade this host")
    return known.read(question)
