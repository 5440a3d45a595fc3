"""`/api/v1`: the JSON documents of the command line, to be read over HTTP. `actions` has what can be changed.

Documents have the fields that docs/reference/cli.md describes; within one version fields are added, never renamed or
dropped.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import StringConstraints

from drover.by_database import ByDatabase
from drover.console import live, report
from drover.console.access import Follows, Known
from drover.console.failures import ALWAYS, PREFIX, Failure
from drover.console.parameters import KnownOnes, Number
from drover.operations import Reported, Wanted
from drover.settings import settings
from drover.views import documents, inbox
from models.base import Document
from models.database import transaction
from models.documents import Window
from workflows import permissions, schedule
from workflows.kept_images import Which as Images

NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Failure, "description": "There is nothing of that number or name."}
}
A_PAGE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {}}}}
REFUSED: dict[int | str, dict[str, Any]] = {409: {"model": Failure, "description": "The selector is not understood."}}
router = APIRouter(prefix=PREFIX, responses=ALWAYS, dependencies=[Known, KnownOnes])
Text = Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00]*$")]
Key = Annotated[Text, Query(min_length=1, description="The idempotency key of a submission.")]
Everything = Annotated[bool, Query(alias="all", description="Those that have ended as well.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="The newest of them.")]
Labels = Annotated[Text | None, Query(description="As for `--selector`: KEY=VALUE, KEY=A|B, KEY!=VALUE, KEY, !KEY.")]
OfGuest = Annotated[Text | None, Query(description="What is about this guest alone.")]
MOST_S = timedelta(days=36500).total_seconds()
ASKED = ByDatabase(permissions.operator())


def _hours(
    window: Annotated[Text | None, Query(description="Like 22:00-04:00.")] = None,
    timezone: Annotated[Text, Query(description="In which `window` is meant, like Europe/Berlin.")] = "UTC",
) -> Window | None:
    return schedule.hours(window, timezone)


Hours = Annotated[Window | None, Depends(_hours)]


@router.get("/hosts", responses=REFUSED)
def hosts(selector: Labels = None) -> Document:
    """As `drover host list --json`."""
    return {"hosts": ASKED.hosts(selector)}


@router.get("/guests", responses=REFUSED)
def guests(selector: Labels = None) -> Document:
    """As `drover guest list --json`."""
    return {"guests": ASKED.guests(selector)}


@router.get("/policies")
def policies() -> Document:
    """As `drover policy list --json`."""
    return {"policies": documents.policies()}


def _wanted(
    everything: Everything = False,
    guest: OfGuest = None,
    selector: Labels = None,
    since_s: Annotated[
        float | None, Query(ge=0, le=MOST_S, description="All that were submitted in the last so many seconds.")
    ] = None,
    limit: Limit = 100,
) -> Wanted:
    since = None if since_s is None else timedelta(seconds=since_s)
    return Wanted(everything=everything, guest=guest, selector=selector, since=since, limit=limit)


Which = Annotated[Wanted, Depends(_wanted)]


@router.get("/jobs", responses=NOT_FOUND | REFUSED)
def jobs(wanted: Which) -> Document:
    """As `drover job list --json`."""
    return {"jobs": ASKED.jobs(wanted)}


@router.get("/submissions/job", responses=NOT_FOUND | REFUSED)
def job_of_key(key: Key) -> Document:
    """The number of the job that was submitted with this idempotency key."""
    return {"id": ASKED.job_of_key(key)}


@router.get("/submissions/drain", responses=NOT_FOUND | REFUSED)
def drain_of_key(key: Key) -> Document:
    """Likewise of a drain or return."""
    return {"id": ASKED.drain_of_key(key)}


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


@router.get(
    "/jobs/{number}/progress", response_class=EventSourceResponse, include_in_schema=False, dependencies=[Follows]
)
async def progress(number: Annotated[int, Depends(_known)]) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `job` with the document of `/jobs/ID` at once and after each change, until it ends."""
    async for told in live.job(number):
        yield told


@router.get("/{kind}s/{number}/report", responses=NOT_FOUND)
def report_of(kind: Reported, number: Number) -> Document:
    """As `drover job report --json` and `drover drain report --json`."""
    return ASKED.report(kind, number)


@router.get("/{kind}s/{number}/report.html", responses=NOT_FOUND | A_PAGE, response_model=None)
def page_of_report(kind: Reported, number: Number) -> Response:
    """The same as one HTML page, to be kept."""
    return report.file(kind, number)


@router.get("/drains", responses=REFUSED)
def drains(wanted: Which) -> Document:
    """As `drover drain list --json`."""
    return {"drains": ASKED.drains(wanted)}


@router.get("/drains/{number}", responses=NOT_FOUND)
def drain(number: Number) -> Document:
    """As `drover drain show --json`."""
    return documents.drain(number)


@router.get("/rolls", responses=REFUSED)
def rolls(wanted: Which) -> Document:
    """As `drover roll list --json`."""
    return {"rolls": ASKED.rolls(wanted)}


@router.get("/rolls/{number}", responses=NOT_FOUND)
def roll(number: Number) -> Document:
    """As `drover roll show --json`."""
    return documents.roll(number)


@router.get("/plans", responses=REFUSED)
def plans(wanted: Which) -> Document:
    """As `drover plan list --json`."""
    return {"plans": ASKED.plans(wanted)}


@router.get("/plans/{number}", responses=NOT_FOUND)
def plan(number: Number) -> Document:
    """As `drover plan show --json`."""
    return ASKED.plan(number)


@router.get("/headroom", responses=REFUSED)
def headroom(hours: Hours, selector: Labels = None) -> Document:
    """As `drover host headroom --json`."""
    return {"hosts": ASKED.headroom(selector, hours)}


@router.get("/images", responses=NOT_FOUND | REFUSED)
def images(
    guest: OfGuest = None,
    host: Annotated[Text | None, Query(description="What is on this host alone.")] = None,
    job: Annotated[int | None, Query(ge=1, lt=1 << 63, description="What this job has left alone.")] = None,
    older_than_s: Annotated[float | None, Query(ge=0, le=MOST_S, description="What is older than that.")] = None,
    selector: Labels = None,
) -> Document:
    """As `drover image list --json`."""
    older_than = None if older_than_s is None else timedelta(seconds=older_than_s)
    return ASKED.images(Images(guest=guest, host=host, job=job, older_than=older_than), selector)


@router.get("/inbox")
def waiting() -> Document:
    """All that waits for a person, the oldest first, with the commands to enter."""
    with transaction() as session:
        return {"items": [item.document() for item in inbox.items(session, settings())]}


@router.get("/live/{kind}", response_class=EventSourceResponse, include_in_schema=False, dependencies=[Follows])
async def changes(kind: live.Page) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `changed` whenever a document is to be read anew."""
    async for change in live.changes(kind, ""):
        yield change


@router.get(
    "/live/{kind}/{number}", response_class=EventSourceResponse, include_in_schema=False, dependencies=[Follows]
)
async def changes_of_one(kind: live.Page, number: str) -> AsyncIterator[ServerSentEvent]:
    """Likewise, of one host, job, drain, plan or roll."""
    async for change in live.changes(kind, number):
        yield change
