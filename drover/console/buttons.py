"""What people do by buttons: a page says what will happen, and its only button does it. No script is needed.

The reverse proxy says who they are; the job's events name them.
"""

from math import ceil
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from drover.console import actions
from drover.console.access import allow, from_this_site, visitor
from drover.console.choices import EFFECTS, needed
from drover.console.pages import matters
from drover.console.parameters import Number
from drover.console.rendering import page
from drover.errors import PreconditionFailed
from drover.names import PATTERN
from drover.operations import DrainAction, JobAction, PlanAction, RollAction
from drover.views import drain_queries, drain_sentences, plans, queries, rolls, sentences
from drover.views.sentences import Command
from models.database import transaction
from models.job import Side
from workflows.permissions import Person

router = APIRouter(include_in_schema=False)
Who = Annotated[Person, Depends(visitor)]
Owner = Annotated[Literal["source", "destination"] | None, Query()]
Pause = Annotated[float | None, Query(ge=0.001)]
Fenced = Annotated[str | None, Query(pattern=f"^{PATTERN}$")]


@router.get("/jobs/{number}/complete-now")
def ask_for_the_end(request: Request, number: Number, person: Who, pause_s: Pause = None) -> Response:
    """What it costs to complete a move now. Its button accepts the pause that the address of the page has."""
    allow(person, needed("complete-now"))
    price = actions.asked_by(person).price(number)
    if pause_s is None:
        return RedirectResponse(f"/jobs/{number}/complete-now?pause_s={ceil(price['pause_most_s'])}", 303)
    told = f"{sentences.price(price)}. The move's own limit of bandwidth and a hold end."
    command = Command(f"drover job complete-now {number} --pause {pause_s:g}s", told)
    headline = sentences.headline(queries.snapshot(number).job)
    return _asked(request, person, "complete-now", command, f"/jobs/{number}", headline)


@router.post("/jobs/{number}/complete-now", dependencies=[Depends(from_this_site)])
def complete_now(number: Number, person: Who, pause_s: Annotated[float, Query(ge=0.001)]) -> RedirectResponse:
    """Do it, and show the job."""
    allow(person, needed("complete-now"))
    actions.asked_by(person).complete_now(number, pause_s)
    return RedirectResponse(f"/jobs/{number}", 303)


@router.get("/jobs/{number}/{action}")
def ask_about_job(
    request: Request,
    number: Number,
    action: JobAction | Literal["resolve"],
    person: Who,
    owner: Owner = None,
    fenced: Fenced = None,
) -> HTMLResponse:
    """What will happen."""
    job = queries.snapshot(number).job
    said = [f"--owner {owner}"] if owner else []
    said += [f"--fenced {fenced}"] if fenced else []
    belongs = {"source": job.source, "destination": job.destination, None: ""}[owner]
    command = Command(" ".join(["drover job", action, str(number), *said]), EFFECTS["job", action])
    return _asked(request, person, action, command, f"/jobs/{number}", sentences.headline(job), belongs)


@router.get("/drains/{number}/{action}")
def ask_about_drain(request: Request, number: Number, action: DrainAction, person: Who) -> HTMLResponse:
    """Likewise."""
    headline = drain_sentences.standing(drain_queries.snapshot(number))
    command = Command(f"drover drain {action} {number}", EFFECTS["drain", action])
    return _asked(request, person, action, command, f"/drains/{number}", headline)


@router.get("/rolls/{number}/{action}")
def ask_about_roll(request: Request, number: Number, action: RollAction, person: Who) -> HTMLResponse:
    """Likewise."""
    headline = rolls.standing(rolls.snapshot(number))
    command = Command(f"drover roll {action} {number}", EFFECTS["roll", action])
    return _asked(request, person, action, command, f"/rolls/{number}", headline)


@router.get("/plans/{number}/{action}")
def ask_about_plan(request: Request, number: Number, action: PlanAction, person: Who) -> HTMLResponse:
    """Likewise."""
    command = Command(f"drover plan {action} {number}", EFFECTS["plan", action])
    return _asked(request, person, action, command, f"/plans/{number}", plans.headline(plans.snapshot(number)))


def _asked(
    request: Request, person: Person, action: str, command: Command, back: str, headline: str, owner: str = ""
) -> HTMLResponse:
    allow(person, needed(action))
    with transaction() as session:
        waiting = matters(session)
    return page(
        request,
        "button.html",
        waiting=waiting,
        headline=headline,
        owner=owner,
        back=back,
        command=command.text,
        effect=command.effect,
    )


@router.post("/jobs/{number}/{action}", dependencies=[Depends(from_this_site)])
def act_on_job(
    number: Number,
    action: JobAction | Literal["resolve"],
    person: Who,
    owner: Owner = None,
    fenced: Fenced = None,
) -> RedirectResponse:
    """Do it, and show the job."""
    allow(person, needed(action))
    if action == "resolve":
        if owner is None:
            raise PreconditionFailed("say who owns the guest: source or destination")
        actions.asked_by(person).resolve(number, Side(owner), fenced)
    else:
        actions.asked_by(person).on_job(number, action)
    return RedirectResponse(f"/jobs/{number}", 303)


@router.post("/drains/{number}/{action}", dependencies=[Depends(from_this_site)])
def act_on_drain(number: Number, action: DrainAction, person: Who) -> RedirectResponse:
    """Do it, and show the drain."""
    allow(person, needed(action))
    actions.on_drain(number, action, person)
    return RedirectResponse(f"/drains/{number}", 303)


@router.post("/rolls/{number}/{action}", dependencies=[Depends(from_this_site)])
def act_on_roll(number: Number, action: RollAction, person: Who) -> RedirectResponse:
    """Do it, and show the roll."""
    allow(person, needed(action))
    actions.on_roll(number, action, person)
    return RedirectResponse(f"/rolls/{number}", 303)


@router.post("/plans/{number}/{action}", dependencies=[Depends(from_this_site)])
def act_on_plan(number: Number, action: PlanAction, person: Who) -> RedirectResponse:
    """Do it, and show the plan, or the drain that follows it."""
    allow(person, needed(action))
    done = actions.asked_by(person).on_plan(number, action)
    return RedirectResponse(f"/drains/{done['id']}" if action == "apply" else f"/plans/{number}", 303)
