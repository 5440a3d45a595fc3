"""A drain's plan as a file: who goes where, in which order, why, how long it takes, and what is left.

It is made by a forecast, reviewed and edited by people (skip, another target, another order), submitted, approved and
applied, see `plans`. A drain that follows a plan moves nobody else and sends nobody elsewhere: right before its turn
each guest is compared with what the plan says of it, and one that differs is left, with the difference as its reason.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

import yaml
from pydantic import ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import select

from drover import words
from drover.errors import PreconditionFailed, UnreadableDocument
from drover.names import GuestName, HostName
from models.base import now
from models.contracts import Many, Part, Versioned
from models.database import transaction
from models.documents import MigrationOptions, PlannedGuest
from models.drain import DrainKind
from models.guest import Guest
from workflows import policies
from workflows.drain.planner import DrainRequest, Forecast, Targets
from workflows.submissions import DrainSubmission

LARGEST = 1 << 24
"""Bytes of a file that is read."""
LONGEST_S = 10**9
Words = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=10_000)]
"""The database takes no NUL."""
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)]


class Strict(Part):
    """An unknown word is a mistake of who has edited the file."""

    model_config = ConfigDict(extra="forbid")


class Move(Strict):
    """One guest that is to be moved, in its turn."""

    guest: GuestName
    source: HostName
    to: HostName
    skip: bool = False
    """Leave it where it is."""
    estimate_s: Seconds
    begins_at: Words | None = None
    """When, by estimate. For people, as the next."""
    why: Words = ""
    """Why there."""
    cpus: int
    memory_bytes: int
    disk_bytes: int
    uuid: Words | None = None
    policies: dict[Words, Words] = {}  # noqa: RUF012 - pydantic copies it
    """{option: value and policy}: what policies decide about its move, see `workflows.policies`."""

    @property
    def planned(self) -> PlannedGuest:
        """What it is compared with right before its turn."""
        return PlannedGuest(
            source=self.source,
            cpus=self.cpus,
            memory_bytes=self.memory_bytes,
            disk_bytes=self.disk_bytes,
            uuid=self.uuid,
            estimate_s=self.estimate_s,
            policies=self.policies,
        )


class Left(Strict):
    """A guest that stays."""

    guest: GuestName
    why: Words


class PlanFile(Versioned):
    """A plan of a drain or return, as people read, edit and apply it."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)] = 1
    kind: str = Field(pattern="^(drain|return)$")
    made_at: Words
    made_by: Words
    total_s: Seconds
    request: dict[str, Any]
    """What was asked for, as `DrainSubmission` has it."""
    moves: Many[Move] = ()
    """In their order."""
    left: Many[Left] = ()

    @model_validator(mode="after")
    def _each_guest_once(self) -> Self:
        names = [move.guest for move in self.moves] + [left.guest for left in self.left]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named more than once: {', '.join(twice)}")
        return self

    @property
    def going(self) -> tuple[Move, ...]:
        """Those that are not to be skipped."""
        return tuple(move for move in self.moves if not move.skip)

    def drain_request(self) -> DrainRequest:
        """What the drain is asked for.

        Raises:
            PreconditionFailed: `request` is not understood.
        """
        return DrainRequest.of(DrainKind(self.kind), DrainSubmission.read(self.request))

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The plan in a document that has more than it.

        Raises:
            UnreadableDocument: it has none, or one of a later version.
        """
        return cls.read({name: value for name, value in document.items() if name in cls.model_fields})

    def targets(self) -> Targets:
        """Where each guest may go, and nobody else may."""
        return {move.guest: move.to for move in self.going}

    @property
    def digest(self) -> str:
        """Changes with each change of what would be done. Comments and the words for people do not count."""
        told = self.json_object()
        for each in told["moves"]:
            del each["why"], each["begins_at"]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def made(forecast: Forecast, submission: DrainSubmission, by: str) -> PlanFile:
    """The plan of a forecast."""
    with transaction() as session:
        at = now(session)
        names = [placement.candidate.name for placement in forecast.plan.placements]
        guests = {guest.name: guest for guest in session.scalars(select(Guest).where(Guest.name.in_(names)))}
    moves = []
    for placement in forecast.plan.placements:
        guest, begins_at = guests[placement.candidate.name], forecast.moves_at(placement)
        moves.append(
            Move(
                guest=guest.name,
                source=guest.host,
                to=placement.destination,
                estimate_s=round(forecast.move_s(placement), 1),
                begins_at=None if begins_at is None else words.utc(begins_at),
                why=placement.why,
                cpus=guest.cpus,
                memory_bytes=guest.memory_bytes,
                disk_bytes=guest.disk_bytes,
                uuid=guest.uuid,
                policies=policies.by_policies(forecast.options[guest.name]),
            )
        )
    return PlanFile(
        kind=forecast.kind.value,
        made_at=at.isoformat(timespec="seconds"),
        made_by=by,
        total_s=round(forecast.total_s, 1),
        request=submission.model_dump(mode="json", exclude_unset=True, exclude_none=True),
        moves=tuple(moves),
        left=tuple(Left(guest=name, why=why) for name, why in sorted(forecast.plan.left.items())),
    )


def written(plan: PlanFile) -> str:
    """The text of the file."""
    return yaml.safe_dump(plan.json_object(), sort_keys=False, allow_unicode=True, width=120)


def read(text: str, name: str) -> PlanFile:
    """The plan in a file.

    Raises:
        PreconditionFailed: it is no plan, or of a later version; one sentence names the place.
    """
    try:
        if (document := yaml.safe_load(text)) is None:
            raise PreconditionFailed("it is empty; `drover plan drain HOST --out FILE` writes one")
        plan = PlanFile.read(document)
        plan.drain_request()
    except yaml.YAMLError as error:
        raise PreconditionFailed(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    except (UnreadableDocument, PreconditionFailed) as error:
        raise PreconditionFailed(f"{name} is no plan that can be used: {error}") from error
    return plan


class Differs(PreconditionFailed):
    """A guest is not as the plan that its drain follows says."""


def compare(guest: Guest, planned: PlannedGuest, options: MigrationOptions) -> None:
    """Refuse a guest that is not as planned, or whose move would be done otherwise.

    Raises:
        Differs: what differs, and what to do.
    """
    if why := difference(guest, planned, options):
        raise Differs(f"{guest.name} is not as the plan says: {why}; it stays where it is: make another plan for it")


def difference(guest: Guest | None, planned: PlannedGuest, options: MigrationOptions) -> str | None:
    """What is no longer as the plan says, as a sentence; None if nothing is."""
    if guest is None:
        return "it is no guest of Drover any more"
    if guest.host != planned.source:
        return f"it is on {guest.host}, by the plan on {planned.source}"
    if planned.uuid is not None and guest.uuid != planned.uuid:
        return f"its UUID is {guest.uuid}, by the plan {planned.uuid}: it is another guest of that name"
    for what in ("cpus", "memory_bytes", "disk_bytes"):
        is_now, was = getattr(guest, what), getattr(planned, what)
        if is_now != was:
            return f"its {what} is {is_now}, by the plan {was}"
    decided = policies.by_policies(options)
    if planned.policies is not None and decided != planned.policies:
        return f"policies decide {words.pairs(decided)}, by the plan {words.pairs(planned.policies)}"
    return None
