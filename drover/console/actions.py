"""`/api/v1`: what can be changed through it, by whom. The commands of the same names do the same."""

import logging
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field

from drover.console.access import Approver, Described, Operator, Person, Reader
from drover.console.failures import ALWAYS, PREFIX, Failure
from drover.names import PATTERN
from drover.operations import ByDatabase, DrainAction, HostAction, JobAction
from drover.views import documents
from models.base import Document
from models.contracts import Part
from models.drain import DrainKind
from models.job import Side
from workflows import schedule
from workflows.migration import completion
from workflows.migration.jobs import Changes
from workflows.roll import commands as rolls
from workflows.roll.commands import RollRequest
from workflows.submissions import DrainSubmission, MigrationSubmission, RollSubmission

log = logging.getLogger(__name__)

ANSWERS: dict[int | str, dict[str, Any]] = {
    **ALWAYS,
    403: {"model": Failure, "description": "It may not do that."},
    429: {"model": Failure, "description": "Too often: wait as long as Retry-After says."},
    404: {"model": Failure, "description": "There is no such number or name."},
    409: {"model": Failure, "description": "Refused, nothing was changed; the sentence says why and what to do."},
}
router = APIRouter(prefix=PREFIX, responses=ANSWERS, dependencies=[Described])
Number = Annotated[int, Path(ge=1, lt=1 << 63)]
Name = Annotated[str, Path(pattern=f"^{PATTERN}$")]
RollAction = Literal["pause", "resume", "cancel"]

ON_ROLLS: dict[RollAction, Callable[[int], object]] = {
    "pause": rolls.pause,
    "resume": rolls.resume,
    "cancel": rolls.cancel,
}


class Change(Part):
    """What `drover job set` changes; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    bandwidth_bytes_per_s: int | None = Field(None, ge=0, lt=1 << 63)
    max_downtime_ms: int | None = Field(None, ge=1, lt=1 << 31)
    priority: int | None = Field(None, gt=-(1 << 31), lt=1 << 31)
    window: str | None = Field(None, max_length=32, description="Like 22:00-04:00; an empty text is always.")
    timezone: str = Field("UTC", max_length=64, description="In which `window` is meant, like Europe/Berlin.")

    def changes(self) -> Changes:
        """What is to be different.

        Raises:
            PreconditionFailed: the window is none.
        """
        hours = schedule.window(self.window, self.timezone) if self.window else None
        return Changes(
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            max_downtime_ms=self.max_downtime_ms,
            priority=self.priority,
            window="always" if self.window == "" else hours,
        )


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


@router.get("/guests/{name}")
def guest(name: Name, person: Reader) -> Document:
    """As `drover guest show --json`: its host is asked."""
    return ByDatabase(person.by).guest(name)


@router.post("/migrations", status_code=201)
def migrate(asked: MigrationSubmission, person: Operator) -> Document:
    """As `drover migrate`. With an idempotency key that was used before: the earlier job."""
    return ByDatabase(person.by).migrate(_meant(asked))


@router.post("/migrations/dry-run")
def try_migration(asked: MigrationSubmission, person: Operator) -> Document:
    """As `drover migrate --dry-run`: both hosts are asked, and nothing is changed."""
    return ByDatabase(person.by).try_migration(_meant(asked))


@router.get("/jobs/{number}/price")
def price(number: Number, person: Reader) -> Document:
    """As `drover job complete-now`: how long the guest would stand still."""
    return ByDatabase(person.by).price(number)


@router.post("/jobs/{number}/complete-now")
def complete_now(number: Number, wanted: Pause, person: Operator) -> Document:
    """As `drover job complete-now --pause`."""
    return ByDatabase(person.by).complete_now(number, wanted.pause_s)


@router.post("/jobs/{number}/set")
def change(number: Number, wanted: Change, person: Operator) -> Document:
    """As `drover job set`."""
    return ByDatabase(person.by).change_job(number, wanted.changes())


@router.post("/jobs/{number}/resolve")
def resolve(number: Number, decided: Decision, person: Approver) -> Document:
    """As `drover job resolve`."""
    return ByDatabase(person.by).resolve(number, Side(decided.owner), decided.fenced)


@router.post("/jobs/{number}/{action}")
def act_on_job(number: Number, action: JobAction, person: Operator) -> Document:
    """As `drover job cancel`, `release` and `retry`."""
    return ByDatabase(person.by).on_job(number, action)


@router.post("/drains", status_code=201)
def drain(asked: DrainSubmission, person: Operator) -> Document:
    """As `drover drain submit`; `forecast` has who goes where, or is null where there was such a drain already."""
    return _submitted(DrainKind.DRAIN, asked, person)


@router.post("/returns", status_code=201)
def bring_home(asked: DrainSubmission, person: Operator) -> Document:
    """As `drover return`."""
    return _submitted(DrainKind.RETURN, asked, person)


@router.post("/drains/dry-run")
def try_drain(asked: DrainSubmission, person: Operator) -> Document:
    """As `drover drain --dry-run`: all hosts are asked, and nothing is changed."""
    return ByDatabase(person.by).try_drain(DrainKind.DRAIN, asked)


@router.post("/returns/dry-run")
def try_return(asked: DrainSubmission, person: Operator) -> Document:
    """As `drover return --dry-run`."""
    return ByDatabase(person.by).try_drain(DrainKind.RETURN, asked)


@router.post("/drains/{number}/set")
def change_drain(number: Number, wanted: Change, person: Operator) -> Document:
    """As `drover drain set`."""
    return ByDatabase(person.by).change_drain(number, wanted.changes())


@router.post("/drains/{number}/{action}")
def act_on_drain(number: Number, action: DrainAction, person: Operator) -> Document:
    """As `drover drain pause`, `resume`, `release` and `cancel`."""
    return on_drain(number, action, person)


@router.post("/rolls", status_code=201)
def roll(asked: RollSubmission, person: Operator) -> Document:
    """As `drover roll submit`."""
    made = rolls.submit(RollRequest.of(asked))
    log.info("%s submitted roll %d", person.by, made.id, extra={"roll": made.id})
    return documents.roll(made.id)


@router.post("/rolls/{number}/{action}")
def act_on_roll(number: Number, action: RollAction, person: Operator) -> Document:
    """As `drover roll pause`, `resume` and `cancel`."""
    on_roll(number, action, person)
    return documents.roll(number)


@router.post("/hosts/{name}/{action}")
def act_on_host(name: Name, action: HostAction, person: Operator) -> Document:
    """As `drover host cordon` and `uncordon`."""
    ByDatabase(person.by).on_host(name, action)
    log.info("%s: %s %s", person.by, action, name)
    return documents.host(name)


def on_drain(number: int, action: DrainAction, person: Person) -> Document:
    """Do it; errors are those of `workflows.drain.commands`."""
    done = ByDatabase(person.by).on_drain(number, action)
    log.info("%s: %s drain %d", person.by, action, number, extra={"drain": number})
    return done


def _meant(asked: MigrationSubmission) -> MigrationSubmission:
    """With what no single field can tell.

    Raises:
        PreconditionFailed: it names no destination, or two.
    """
    return MigrationSubmission.read(asked.model_dump(mode="json", exclude_unset=True))


def on_roll(number: int, action: RollAction, person: Person) -> None:
    """Do it; errors are those of `workflows.roll.commands`."""
    ON_ROLLS[action](number)
    log.info("%s: %s roll %d", person.by, action, number, extra={"roll": number})


def _submitted(kind: DrainKind, asked: DrainSubmission, person: Person) -> Document:
    made = ByDatabase(person.by).submit_drain(kind, asked)
    number = made.document["id"]
    log.info("%s submitted %s %d of %s", person.by, kind, number, asked.host, extra={"drain": number})
    return {**made.document, "forecast": made.forecast}
