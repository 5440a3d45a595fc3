"""One function per page. Each reads, and renders a template."""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Generic, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.orm import Session

from drover.console import access, facts, live, report
from drover.console.parameters import Number
from drover.console.rendering import page
from drover.settings import settings
from drover.views import (
    drain_queries,
    drain_sentences,
    fleet,
    history,
    inbox,
    queries,
    rolls,
    sentences,
    serializers,
)
from models.base import now
from models.database import transaction
from workflows import not_there

router = APIRouter(include_in_schema=False, dependencies=[Depends(access.visitor)])
ROOMS_AT_ONCE = 100
NEWEST = 200

Item = TypeVar("Item")
Text = Annotated[str, Query(max_length=128, pattern=r"^[^\x00]*$")]


@dataclass(frozen=True)
class Slice(Generic[Item]):
    """Some of many, page by page."""

    shown: Sequence[Item]
    number: int
    pages: int
    total: int

    @classmethod
    def of(cls, everything: Sequence[Item], number: int, size: int) -> "Slice[Item]":
        """The page of this number, or the last one there is."""
        pages = max(1, -(-len(everything) // size))
        number = min(number, pages)
        return cls(everything[(number - 1) * size : number * size], number, pages, len(everything))


def matters(session: Session) -> int:
    """How many wait for a person."""
    return len(inbox.items(session, settings()))


@router.get("/")
def show_fleet(
    request: Request,
    q: Text = "",
    condition: Text = "",
    number: Annotated[int, Query(alias="page", ge=1, le=100_000)] = 1,
) -> HTMLResponse:
    """A room per host."""
    with transaction() as session:
        rooms = fleet.rooms(session, settings())
        waiting, at = matters(session), now(session)
    wanted = [room for room in rooms if (not condition or condition in room.conditions) and room.mentions(q)]
    return page(
        request,
        "fleet.html",
        live="fleet",
        now=at,
        waiting=waiting,
        rooms=Slice.of(wanted, number, ROOMS_AT_ONCE),
        all_rooms=len(rooms),
        guests=sum(len(room.guests) for room in rooms),
        counts=fleet.counts(rooms),
        q=q,
        condition=condition,
    )


@router.get("/hosts/{name}")
def show_host(request: Request, name: Annotated[str, Path(max_length=64)]) -> HTMLResponse:
    """All guests of one host."""
    with transaction() as session:
        rooms = fleet.rooms(session, settings())
        waiting, at = matters(session), now(session)
        room = next((room for room in rooms if room.name == name), None)
        if room is None:
            raise not_there.host(session, name)
        why = queries.wait_reasons_of(session, [move.job_id for move in room.leaving + room.arriving])
    return page(request, "host.html", live=f"host/{name}", now=at, waiting=waiting, room=room, why=why)


@router.get("/jobs")
def show_jobs(
    request: Request, everything: Annotated[bool, Query(alias="all")] = False, guest: Text = ""
) -> HTMLResponse:
    """Moves, the newest first."""
    shots = queries.newest(everything=everything, guest=guest or None, limit=NEWEST)
    with transaction() as session:
        waiting, at = matters(session), now(session)
    rows = [serializers.job_summary(shot) | {"unwell": sentences.unwell(shot.job)} for shot in shots]
    return page(
        request, "jobs.html", live="jobs", now=at, waiting=waiting, rows=rows, everything=everything, guest=guest
    )


@router.get("/jobs/{job_id}")
def show_job(request: Request, job_id: Number) -> HTMLResponse:
    """Everything about one move."""
    with transaction() as session:
        waiting = matters(session)
    return page(request, "job.html", live=f"job/{job_id}", waiting=waiting, **facts.of_job(job_id))


@router.get("/jobs/{number}/report.html")
def report_of_job(number: Number) -> Response:
    """One file about a move, to be kept."""
    return report.file("job", number)


@router.get("/drains/{number}/report.html")
def report_of_drain(number: Number) -> Response:
    """Likewise about a drain."""
    return report.file("drain", number)


@router.get("/drains")
def show_drains(request: Request) -> HTMLResponse:
    """Drains and returns, the newest first."""
    shots = drain_queries.newest(everything=True, limit=NEWEST)
    with transaction() as session:
        waiting, at = matters(session), now(session)
    return page(
        request, "drains.html", live="drains", now=at, waiting=waiting, shots=shots, headline=drain_sentences.headline
    )


@router.get("/drains/{drain_id}")
def show_drain(request: Request, drain_id: Number) -> HTMLResponse:
    """A timeline with a bar per guest."""
    with transaction() as session:
        waiting = matters(session)
    return page(request, "drain.html", live=f"drain/{drain_id}", waiting=waiting, **facts.of_drain(drain_id))


@router.get("/plans/{number}")
def show_plan(request: Request, number: Number) -> HTMLResponse:
    """Who would go where, who has approved it, and what has become of it."""
    with transaction() as session:
        waiting, at = matters(session), now(session)
    return page(request, "plan.html", live=f"plan/{number}", now=at, waiting=waiting, **facts.of_plan(number))


@router.get("/rolls")
def show_rolls(request: Request) -> HTMLResponse:
    """Rolls, the newest first."""
    shots = rolls.newest(everything=True, limit=NEWEST)
    with transaction() as session:
        waiting, at = matters(session), now(session)
    return page(request, "rolls.html", live="rolls", now=at, waiting=waiting, shots=shots)


@router.get("/rolls/{roll_id}")
def show_roll(request: Request, roll_id: Number) -> HTMLResponse:
    """A timeline with a bar per host."""
    with transaction() as session:
        waiting = matters(session)
    return page(request, "roll.html", live=f"roll/{roll_id}", waiting=waiting, **facts.of_roll(roll_id))


@router.get("/inbox")
def show_inbox(request: Request) -> HTMLResponse:
    """All that wants a person."""
    with transaction() as session:
        items, at = inbox.items(session, settings()), now(session)
    return page(request, "inbox.html", live="inbox", now=at, waiting=len(items), items=items)


def _wanted(
    by: history.By = history.By.DAY,
    days: Annotated[int, Query(ge=1, le=3650)] = 30,
    guest: Text = "",
    host: Text = "",
) -> history.Wanted:
    return history.Wanted(by=by, since=timedelta(days=days), guest=guest or None, host=host or None)


Wanted = Annotated[history.Wanted, Depends(_wanted)]


@router.get("/history")
def show_history(request: Request, wanted: Wanted) -> HTMLResponse:
    """What moves took."""
    with transaction() as session:
        groups, waiting, at = history.groups(session, wanted), matters(session), now(session)
    highest = max((group.downtime_ms_p95 or 0.0 for group in groups), default=0.0)
    return page(
        request,
        "history.html",
        live="history",
        now=at,
        waiting=waiting,
        groups=groups,
        wanted=wanted,
        highest=highest or 1.0,
        choices=list(history.By),
    )


@router.get("/history.json")
def history_as_json(wanted: Wanted) -> JSONResponse:
    """The same figures."""
    with transaction() as session:
        groups = history.groups(session, wanted)
    return JSONResponse({"by": wanted.by.value, "groups": [group.document() for group in groups]})


@router.get("/history.csv")
def history_as_csv(wanted: Wanted) -> Response:
    """Likewise, a line for each group."""
    with transaction() as session:
        documents = [group.document() for group in history.groups(session, wanted)]
    text = io.StringIO()
    lines = csv.DictWriter(text, fieldnames=history.FIELDS)
    lines.writeheader()
    lines.writerows(documents)
    named = {"Content-Disposition": f'attachment; filename="drover-history-by-{wanted.by}.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=named)


@router.get("/live/{kind}", response_class=EventSourceResponse, dependencies=[access.Follows])
@router.get("/live/{kind}/{number}", response_class=EventSourceResponse, dependencies=[access.Follows])
async def tell_changes(kind: live.Page, number: str = "") -> AsyncIterator[ServerSentEvent]:
    """Server-sent events for as long as the browser listens."""
    async for change in live.changes(kind, number):
        yield change
