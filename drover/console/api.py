"""`/api/v1`: the JSON documents of the command line, to be read over HTTP. `actions` has what can be changed.

Documents have the fields that docs/reference/cli.md describes; within one version fields are added, never renamed or
dropped.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from drover.console import live
from drover.console.access import Reader
from drover.console.failures import ALWAYS, PREFIX, Failure
from drover.settings import settings
from drover.views import documents, inbox
from models.base import Document
from models.database import transaction

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Failure, "description": "There is no such number."}}
router = APIRouter(prefix=PREFIX, responses=ALWAYS, dependencies=[Reader])
Number = Annotated[int, Path(ge=1, lt=1 << 63)]
Everything = Annotated[bool, Query(alias="all", description="Those that have ended as well.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="The newest of them.")]


@router.get("/hosts")
def hosts() -> Document:
    """As `drover host list --json`."""
    return {"hosts": documents.hosts()}


@router.get("/guests")
def guests() -> Document:
    """As `drover guest list --json`."""
    return {"guests": documents.guests()}


@router.get("/policies")
def policies() -> Document:
    """As `drover policy list --json`."""
    return {"policies": documents.policies()}


@router.get("/jobs")
def jobs(
    everything: Everything = False,
    guest: Annotated[str | None, Query(max_length=128, pattern=r"^[^\x00]*$")] = None,
    limit: Limit = 100,
) -> Document:
    """As `drover job list --json`."""
    return {"jobs": documents.jobs(everything=everything, guest=guest, limit=limit)}


@router.get("/jobs/{number}", responses=NOT_FOUND)
def job(number: Number) -> Document:
    """As `drover job show --json`."""
    return documents.job(number)


@router.get("/jobs/{number}/events", responses=NOT_FOUND)
def events(number: Number) -> Document:
    """As `drover job explain --json`."""
    return documents.explanation(number)


def _known(number: Number) -> int:
    documents.job(number)
    return number


@router.get("/jobs/{number}/progress", response_class=EventSourceResponse, include_in_schema=False)
async def progress(number: Annotated[int, Depends(_known)]) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `job` with the document of `/jobs/{number}` at once and after each change, until it ends."""
    async for told in live.job(number):
        yield told


@router.get("/drains")
def drains(everything: Everything = False, limit: Limit = 100) -> Document:
    """As `drover drain list --json`."""
    return {"drains": documents.drains(everything=everything, limit=limit)}


@router.get("/drains/{number}", responses=NOT_FOUND)
def drain(number: Number) -> Document:
    """As `drover drain show --json`."""
    return documents.drain(number)


@router.get("/rolls")
def rolls(everything: Everything = False, limit: Limit = 100) -> Document:
    """As `drover roll list --json`."""
    return {"rolls": documents.rolls(everything=everything, limit=limit)}


@router.get("/rolls/{number}", responses=NOT_FOUND)
def roll(number: Number) -> Document:
    """As `drover roll show --json`."""
    return documents.roll(number)


@router.get("/inbox")
def waiting() -> Document:
    """All that waits for a person, the oldest first, with the commands to enter."""
    with transaction() as session:
        return {"items": [item.document() for item in inbox.items(session, settings())]}


@router.get("/live/{kind}", response_class=EventSourceResponse, include_in_schema=False)
@router.get("/live/{kind}/{number}", response_class=EventSourceResponse, include_in_schema=False)
async def changes(kind: live.Page, number: str = "") -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `changed` whenever a document is to be read anew."""
    async for change in live.changes(kind, number):
        yield change
