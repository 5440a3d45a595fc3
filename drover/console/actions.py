"""`/api/v1`: what can be changed through it, by whom. The commands of the same names do the same."""

import logging
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field

from drover.by_database import ByDatabase
from drover.console.access import Approver, Described, Judged, Operator, Reader, allow
from drover.console.api import MOST_S, Hours
from drover.console.failures import ALWAYS, PREFIX, Failure
from drover.console.parameters import KnownOnes, Number
from drover.errors import PreconditionFailed
from drover.names import PATTERN
from drover.operations import DrainAction, HostAction, JobAction, RollAction
from drover.views import documents
from models.access import Scope
from models.base import Document
from models.contracts import Part
from models.documents import MOST_DOWNTIME_MS
from models.drain import DrainKind
from models.job import Side
from workflows.descriptions import GuestDescription, HostDescription
from workflows.drain.plan_file import PlanFile
from workflows.kept_images import Which
from workflows.migration import completion
from workflows.migration.jobs import Changes
from workflows.permissions import Person
from workflows.submissions import BYTES_PER_S, DrainSubmission, MigrationSubmission, Rate, RollSubmission

log = logging.getLogger(__name__)

ANSWERS: dict[int | str, dict[str, Any]] = {
    **ALWAYS,
    403: {"model": Failure, "description": "It may not do that."},
    413: {"model": Failure, "description": "The body is larger than any that means something."},
    429: {"model": Failure, "description": "Too often: wait as long as Retry-After says."},
    404: {"model": Failure, "description": "There is no such number or name."},
    409: {"model": Failure, "description": "Refused, nothing was changed; the sentence says why and what to do."},
}
router = APIRouter(prefix=PREFIX, responses=ANSWERS, dependencies=[Described, KnownOnes])
Name = Annotated[str, Path(pattern=f"^{PATTERN}$")]


class Change(Part):
    """What `drover job set` changes; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    bandwidth_bytes_per_s: Rate | None = Field(None, description=BYTES_PER_S)
    max_downtime_ms: int | None = Field(None, ge=1, le=MOST_DOWNTIME_MS)
    priority: int | None = Field(None, gt=-(1 << 31), lt=1 << 31)
    window: str | None = Field(None, max_length=32, description="Like 22:00-04:00; an empty text is always.")
    timezone: str = Field("UTC", max_length=64, description="In which `window` is meant, like Europe/Berlin.")

    def changes(self) -> Changes:
        """What is to be different.

        Raises:
            PreconditionFailed: the window is none.
        """
        return Changes.of(
            self.window,
            self.timezone,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            max_downtime_ms=self.max_downtime_ms,
            priority=self.priority,
        )


class RollChange(Part):
    """What `drover roll set` changes."""

    model_config = ConfigDict(extra="forbid")

    max_unavailable: int = Field(ge=1, lt=1 << 31)


class Pause(Part):
    """For how long a guest may stand still, as for `drover job complete-now --pause`."""

    model_config = ConfigDict(extra="forbid")

    pause_s: float = Field(ge=0.001, le=completion.MOST_S)


class Decision(Part):
    """Who owns the guest of a job that needs an operator, as for `drover job resolve`."""

    model_config = ConfigDict(extra="forbid")

    owner: Literal["source", "destination"]
    fenced: str | None = Field(None, pattern=f"^{PATTERN}$")
    """The other host, which somebody has made sure is off."""


class Purge(Part):
    """Which kept images are deleted, as for `drover image purge`."""

    model_config = ConfigDict(extra="forbid")

    guest: str | None = Field(None, pattern=f"^{PATTERN}$")
    host: str | None = Field(None, pattern=f"^{PATTERN}$")
    job: int | None = Field(None, ge=1, lt=1 << 63)
    older_than_s: float | None = Field(None, ge=0, le=MOST_S)
    everything: bool = Field(False, description="All that are kept: nothing else names them then.")
    last_way_back: bool = Field(False, description="Also those of guests whose check failed; needs `approve`.")
    dry_run: bool = False

    def which(self) -> Which:
        """Those that are meant.

        Raises:
            PreconditionFailed: nothing is named, or all of them and some.
        """
        older_than = None if self.older_than_s is None else timedelta(seconds=self.older_than_s)
        named = Which(guest=self.guest, host=self.host, job=self.job, older_than=older_than)
        if named.all != self.everything:
            raise PreconditionFailed("name either some images, or `everything`")
        return named


class Qemu(Part):
    """A running QEMU, as for `drover guest adopt`."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(pattern=f"^{PATTERN}$")
    qmp: str = Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$", description="Its QMP socket on that host.")


class Question(Part):
    """How both hosts are asked, as for `drover reconcile`."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(False, description="Only look.")


def asked_by(person: Person) -> ByDatabase:
    """What is done in the name of somebody."""
    return ByDatabase(person)


@router.get("/guests/{name}")
def guest(name: Name, person: Reader) -> Document:
    """As `drover guest show --json`: its host is asked."""
    return asked_by(person).guest(name)


@router.post("/migrations", status_code=201)
def migrate(asked: MigrationSubmission, person: Judged) -> Document:
    """As `drover migrate`. With an idempotency key that was used before: the earlier job."""
    return asked_by(person).migrate(_meant(asked))


@router.post("/migrations/dry-run")
def try_migration(asked: MigrationSubmission, person: Judged) -> Document:
    """As `drover migrate --dry-run`: both hosts are asked, and nothing is changed."""
    return asked_by(person).try_migration(_meant(asked))


@router.get("/jobs/{number}/price")
def price(number: Number, person: Reader) -> Document:
    """As `drover job complete-now`: how long the guest would stand still."""
    return asked_by(person).price(number)


@router.post("/jobs/{number}/complete-now")
def complete_now(number: Number, wanted: Pause, person: Judged) -> Document:
    """As `drover job complete-now --pause`."""
    return asked_by(person).complete_now(number, wanted.pause_s)


@router.post("/jobs/{number}/set")
def change(number: Number, wanted: Change, person: Judged) -> Document:
    """As `drover job set`."""
    return asked_by(person).change_job(number, wanted.changes())


@router.post("/jobs/{number}/resolve")
def resolve(number: Number, decided: Decision, person: Approver) -> Document:
    """As `drover job resolve`."""
    return asked_by(person).resolve(number, Side(decided.owner), decided.fenced)


@router.post("/jobs/{number}/{action}")
def act_on_job(number: Number, action: JobAction, person: Judged) -> Document:
    """As `drover job cancel`, `release` and `retry`."""
    return asked_by(person).on_job(number, action)


@router.post("/drains", status_code=201)
def drain(asked: DrainSubmission, person: Judged) -> Document:
    """As `drover drain submit`; `forecast` has who goes where, or is null where there was such a drain already."""
    return _submitted(DrainKind.DRAIN, asked, person)


@router.post("/returns", status_code=201)
def bring_home(asked: DrainSubmission, person: Judged) -> Document:
    """As `drover return`."""
    return _submitted(DrainKind.RETURN, asked, person)


@router.post("/drains/dry-run")
def try_drain(asked: DrainSubmission, person: Judged) -> Document:
    """As `drover drain --dry-run`: all hosts are asked, and nothing is changed."""
    return asked_by(person).try_drain(DrainKind.DRAIN, asked)


@router.post("/returns/dry-run")
def try_return(asked: DrainSubmission, person: Judged) -> Document:
    """As `drover return --dry-run`."""
    return asked_by(person).try_drain(DrainKind.RETURN, asked)


@router.post("/drains/plan")
def plan_drain(asked: DrainSubmission, person: Operator) -> Document:
    """As `drover plan drain`: all hosts are asked, and nothing is changed. `plan` is what a file of it holds."""
    return asked_by(person).draft_plan(DrainKind.DRAIN, asked)


@router.post("/returns/plan")
def plan_return(asked: DrainSubmission, person: Operator) -> Document:
    """As `drover plan return`."""
    return asked_by(person).draft_plan(DrainKind.RETURN, asked)


@router.post("/plans", status_code=201)
def submit_plan(plan: PlanFile, person: Operator) -> Document:
    """As `drover plan submit`. The same plan keeps its number."""
    return asked_by(person).submit_plan(plan)


@router.post("/plans/look")
def look_at_plan(plan: PlanFile, person: Reader) -> Document:
    """As `drover plan show FILE`: nothing is changed."""
    return asked_by(person).look_at_plan(plan)


@router.post("/plans/dry-run")
def try_plan(plan: PlanFile, person: Operator) -> Document:
    """As `drover plan apply --dry-run`: every guest and target in it is asked, and nothing is changed."""
    return asked_by(person).try_plan(plan)


@router.post("/plans/apply", status_code=201)
def apply_plan(plan: PlanFile, person: Operator) -> Document:
    """As `drover plan apply FILE`: its drain. Applied again, the same plan answers its first drain."""
    return asked_by(person).apply_plan(plan)


@router.post("/plans/{number}/approve")
def approve_plan(number: Number, person: Approver) -> Document:
    """As `drover plan approve`: by this person, who cannot apply it then where four eyes are wanted."""
    return asked_by(person).on_plan(number, "approve")


@router.post("/plans/{number}/{action}")
def act_on_plan(number: Number, action: Literal["apply", "withdraw"], person: Operator) -> Document:
    """As `drover plan apply`, which answers the drain, and `withdraw`."""
    return asked_by(person).on_plan(number, action)


@router.post("/drains/{number}/guests/{name}/overrule")
def overrule(number: Number, name: Name, person: Operator) -> Document:
    """As `drover drain overrule`."""
    return asked_by(person).overrule(number, name)


@router.post("/drains/{number}/set")
def change_drain(number: Number, wanted: Change, person: Judged) -> Document:
    """As `drover drain set`."""
    return asked_by(person).change_drain(number, wanted.changes())


@router.post("/drains/{number}/{action}")
def act_on_drain(number: Number, action: DrainAction, person: Judged) -> Document:
    """As `drover drain pause`, `resume`, `release` and `cancel`."""
    return on_drain(number, action, person)


@router.post("/rolls", status_code=201)
def roll(asked: RollSubmission, person: Operator) -> Document:
    """As `drover roll submit`."""
    made = asked_by(person).submit_roll(asked)
    log.info("%s submitted roll %d", person.by, made["id"], extra={"roll": made["id"]})
    return made


@router.post("/rolls/dry-run")
def try_roll(asked: RollSubmission, person: Operator) -> Document:
    """As `drover roll --dry-run`: all hosts are asked, and nothing is changed."""
    return asked_by(person).try_roll(asked)


@router.post("/rolls/{number}/set")
def change_roll(number: Number, wanted: RollChange, person: Operator) -> Document:
    """As `drover roll set`."""
    return asked_by(person).change_roll(number, wanted.max_unavailable)


@router.post("/rolls/{number}/{action}")
def act_on_roll(number: Number, action: RollAction, person: Operator) -> Document:
    """As `drover roll pause`, `resume` and `cancel`."""
    return on_roll(number, action, person)


@router.get("/hosts/{name}/ok-to-drain")
def ok_to_drain(name: Name, hours: Hours, person: Reader) -> Document:
    """As `drover host ok-to-drain --json`: all hosts are asked."""
    return asked_by(person).ok_to_drain(name, hours)


@router.post("/hosts/{name}/set")
def describe_host(name: Name, said: HostDescription, person: Operator) -> Document:
    """As `drover host set`. What is left out stays, null is the fleet's again."""
    told = asked_by(person).describe_host(name, said)
    log.info("%s: set %s", person.by, name)
    return told


@router.post("/guests/{name}/adopt")
def adopt(name: Name, found: Qemu, person: Operator) -> Document:
    """As `drover guest adopt`: its host is asked."""
    told = asked_by(person).adopt(name, found.host, found.qmp)
    log.info("%s: adopt %s", person.by, name, extra={"guest": name})
    return told


@router.post("/guests/{name}/forget")
def forget(name: Name, person: Operator) -> Document:
    """As `drover guest forget`."""
    told = asked_by(person).forget(name)
    log.info("%s: forget %s", person.by, name, extra={"guest": name})
    return told


@router.get("/hosts/{name}/qemus")
def qemus(name: Name, person: Reader) -> Document:
    """As `drover guest scan`: the host is asked."""
    return asked_by(person).qemus(name, adopt=False)


@router.post("/hosts/{name}/qemus/adopt")
def adopt_qemus(name: Name, person: Operator) -> Document:
    """As `drover guest scan --adopt`."""
    return asked_by(person).qemus(name, adopt=True)


@router.post("/hosts/{name}/trust")
def trust(name: Name, person: Approver) -> Document:
    """As `drover host trust`."""
    told = asked_by(person).trust(name)
    log.info("%s: trust %s", person.by, name)
    return told


@router.post("/guests/{name}/reconcile")
def reconcile(name: Name, asked: Question, person: Operator) -> Document:
    """As `drover reconcile GUEST`: both hosts of its unfinished job are asked."""
    return asked_by(person).reconcile(name, dry_run=asked.dry_run)


@router.post("/guests/{name}/set")
def describe_guest(name: Name, said: GuestDescription, person: Operator) -> Document:
    """As `drover guest set`. What is left out stays, an empty text takes it away."""
    told = asked_by(person).describe_guest(name, said)
    log.info("%s: set %s", person.by, name, extra={"guest": name})
    return told


@router.post("/images/purge")
def purge(wanted: Purge, person: Operator) -> Document:
    """As `drover image purge`."""
    if wanted.last_way_back:
        allow(person, Scope.APPROVE)
    which = wanted.which()
    return asked_by(person).purge(which, last_way_back=wanted.last_way_back, dry_run=wanted.dry_run)


@router.post("/hosts/{name}/{action}")
def act_on_host(name: Name, action: HostAction, person: Operator) -> Document:
    """As `drover host cordon`, `uncordon` and `forget`."""
    asked_by(person).on_host(name, action)
    log.info("%s: %s %s", person.by, action, name)
    return documents.host(name)


def on_drain(number: int, action: DrainAction, person: Person) -> Document:
    """Do it; errors are those of `workflows.drain.commands`."""
    done = asked_by(person).on_drain(number, action)
    log.info("%s: %s drain %d", person.by, action, number, extra={"drain": number})
    return done


def _meant(asked: MigrationSubmission) -> MigrationSubmission:
    """With what no single field can tell.

    Raises:
        PreconditionFailed: it names no destination, or two.
    """
    return MigrationSubmission.read(asked.model_dump(mode="json", exclude_unset=True))


def on_roll(number: int, action: RollAction, person: Person) -> Document:
    """Do it; errors are those of `workflows.roll.commands`."""
    done = asked_by(person).on_roll(number, action)
    log.info("%s: %s roll %d", person.by, action, number, extra={"roll": number})
    return done


def _submitted(kind: DrainKind, asked: DrainSubmission, person: Person) -> Document:
    made = asked_by(person).submit_drain(kind, asked)
    number = made.document["id"]
    log.info("%s submitted %s %d of %s", person.by, kind, number, asked.host, extra={"drain": number})
    return {**made.document, "forecast": made.forecast}
