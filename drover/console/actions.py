"""`/api/v1`: what can be changed through it, by whom. The commands of the same names do the same."""

import logging
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field

from drover.console.access import Approver, Described, Operator, Person
from drover.console.failures import ALWAYS, PREFIX, Failure
from drover.names import PATTERN
from drover.views import documents
from models.base import Document
from models.contracts import Part
from models.drain import DrainKind
from models.job import Side
from workflows import guests, hosts
from workflows.drain import commands
from workflows.drain.commands import DrainRequest
from workflows.migration import jobs, operator_actions
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
JobAction = Literal["cancel", "release", "retry"]
DrainAction = Literal["pause", "resume", "release", "cancel"]
RollAction = Literal["pause", "resume", "cancel"]
HostAction = Literal["cordon", "uncordon"]

ON_DRAINS: dict[DrainAction, Callable[[int], object]] = {
    "pause": commands.pause,
    "resume": commands.resume,
    "cancel": commands.cancel,
}
ON_ROLLS: dict[RollAction, Callable[[int], object]] = {
    "pause": rolls.pause,
    "resume": rolls.resume,
    "cancel": rolls.cancel,
}
ON_HOSTS: dict[HostAction, Callable[[str], object]] = {"cordon": hosts.cordon, "uncordon": hosts.uncordon}


class Change(Part):
    """What `drover job set` changes; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    bandwidth_bytes_per_s: int | None = Field(None, ge=0, lt=1 << 63)
    max_downtime_ms: int | None = Field(None, ge=1, lt=1 << 31)
    priority: int | None = Field(None, gt=-(1 << 31), lt=1 << 31)


class Decision(Part):
    """Who owns the guest of a job that needs an operator, as for `drover job resolve`."""

    model_config = ConfigDict(extra="forbid")

    owner: Literal["source", "destination"]
    fenced: str | None = Field(None, pattern=f"^{PATTERN}$")
    """The other host, which somebody has made sure is off."""


@router.post("/migrations", status_code=201)
def migrate(asked: MigrationSubmission, person: Operator) -> Document:
    """As `drover migrate`. With an idempotency key that was used before: the earlier job."""
    job = jobs.submit(
        asked.guest,
        guests.destination(asked),
        options=asked.options(),
        terms=asked.submit_options(),
        idempotency_key=asked.idempotency_key,
        by=person.by,
    )
    return documents.job(job.id)


@router.post("/jobs/{number}/set")
def change(number: Number, wanted: Change, person: Operator) -> Document:
    """As `drover job set`."""
    changes = jobs.Changes(
        bandwidth_bytes_per_s=wanted.bandwidth_bytes_per_s,
        max_downtime_ms=wanted.max_downtime_ms,
        priority=wanted.priority,
    )
    jobs.change(number, changes, by=person.by)
    return documents.job(number)


@router.post("/jobs/{number}/resolve")
def resolve(number: Number, decided: Decision, person: Approver) -> Document:
    """As `drover job resolve`."""
    operator_actions.resolve(number, Side(decided.owner), decided.fenced, by=person.by)
    return documents.job(number)


@router.post("/jobs/{number}/{action}")
def act_on_job(number: Number, action: JobAction, person: Operator) -> Document:
    """As `drover job cancel`, `release` and `retry`."""
    on_job(number, action, person)
    return documents.job(number)


@router.post("/drains", status_code=201)
def drain(asked: DrainSubmission, person: Operator) -> Document:
    """As `drover drain submit`."""
    return _submitted(DrainKind.DRAIN, asked, person)


@router.post("/returns", status_code=201)
def bring_home(asked: DrainSubmission, person: Operator) -> Document:
    """As `drover return`."""
    return _submitted(DrainKind.RETURN, asked, person)


@router.post("/drains/{number}/{action}")
def act_on_drain(number: Number, action: DrainAction, person: Operator) -> Document:
    """As `drover drain pause`, `resume`, `release` and `cancel`."""
    on_drain(number, action, person)
    return documents.drain(number)


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
    ON_HOSTS[action](name)
    log.info("%s: %s %s", person.by, action, name)
    return documents.host(name)


def on_job(number: int, action: JobAction, person: Person) -> None:
    """Do it; errors are those of `jobs`."""
    if action == "cancel":
        jobs.cancel(number, by=person.by)
    elif action == "release":
        jobs.release(number, by=person.by)
    else:
        jobs.retry(number, by=person.by)


def on_drain(number: int, action: DrainAction, person: Person) -> None:
    """Do it; errors are those of `workflows.drain.commands`."""
    if action == "release":
        commands.release(number, by=person.by)
    else:
        ON_DRAINS[action](number)
    log.info("%s: %s drain %d", person.by, action, number, extra={"drain": number})


def on_roll(number: int, action: RollAction, person: Person) -> None:
    """Do it; errors are those of `workflows.roll.commands`."""
    ON_ROLLS[action](number)
    log.info("%s: %s roll %d", person.by, action, number, extra={"roll": number})


def _submitted(kind: DrainKind, asked: DrainSubmission, person: Person) -> Document:
    request = DrainRequest.of(kind, asked)
    earlier, forecast = commands.submitted_or_forecast(request, asked.idempotency_key)
    made = earlier or commands.submit(request, forecast=forecast, idempotency_key=asked.idempotency_key)
    log.info("%s submitted %s %d of %s", person.by, kind, made.id, made.host, extra={"drain": made.id})
    return documents.drain(made.id)
