"""Plans of drains as files: writing, showing, approving and applying them."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from drover import words
from drover.cli import drain_submission, drain_view, output
from drover.cli.exit_codes import ExitCode
from drover.cli.options import given
from drover.cli.watching import note_without_controller, watch_drain
from drover.errors import PreconditionFailed
from drover.views import documents
from drover.views.drain_documents import forecast_document
from drover.views.serializers import iso
from models.base import Document
from models.database import transaction
from models.drain import DrainKind
from models.guest import Guest
from workflows import policies
from workflows.drain import plan_file, planner
from workflows.drain.commands import DrainRequest
from workflows.drain.plan_file import PlanFile
from workflows.selectors import Selector
from workflows.submissions import DrainSubmission


def user() -> str:
    """Who enters this: by the kernel, and behind `sudo` by what it says of who called it."""
    name = pwd.getpwuid(os.getuid()).pw_name
    return os.environ.get("SUDO_USER", name) if os.getuid() == 0 else name


def write(kind: str, asked: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """Plan a drain, with every host asked, and write it down."""
    if out.exists():
        raise PreconditionFailed(f"{out} is there already: name another file, or remove it")
    submission = DrainSubmission.read(given(asked))
    request = DrainRequest.of(DrainKind(kind), submission)
    forecast = planner.forecast(
        request.kind,
        request.host,
        request.where,
        request.terms,
        request.options,
        selector=Selector.read(request.selector),
        tried=True,
    )
    plan = plan_file.made(forecast, submission, user())
    try:
        with out.open("x") as file:
            file.write(plan_file.written(plan))
    except OSError as error:
        raise PreconditionFailed(f"{out} cannot be written: {error.strerror}") from error
    if as_json:
        output.emit(document(plan))
        return
    drain_submission.print_forecast(forecast_document(forecast))
    output.say(f"the plan is in {out}: edit it, `drover plan approve {out}`, `drover plan apply {out}`")


def read(path: Path) -> PlanFile:
    """The plan in a file.

    Raises:
        PreconditionFailed: it cannot be read, or is no plan.
    """
    try:
        with path.open() as file:
            text = file.read(plan_file.LARGEST)
    except (OSError, UnicodeDecodeError) as error:
        raise PreconditionFailed(f"{path} cannot be read: {error}") from error
    return plan_file.read(text, str(path))


def show(path: Path, *, as_json: bool) -> None:
    """Print a plan, and what is no longer as it says."""
    plan = read(path)
    if as_json:
        output.emit(document(plan))
        return
    differs = differences(plan)
    output.table(
        ("GUEST", "FROM", "TO", "TIME", "HOW", "WHY", "REMARK"),
        [
            (
                *(move.guest, move.source, move.to, words.span(move.estimate_s)),
                *(words.pairs(move.policies) if move.policies else None, move.why, remark(move, differs)),
            )
            for move in plan.moves
        ],
    )
    for left in plan.left:
        output.say(f"{left.guest} stays where it is and runs on: {left.why}")
    told = ", ".join(f"{one.by} at {one.at:%Y-%m-%d %H:%M %Z}" for one in plan_file.approvals(plan))
    output.say(
        f"made by {plan.made_by} at {plan.made_at}; "
        f"{words.count(len(plan.going), 'guest moves', 'guests move')} in about {words.span(plan.total_s)}; "
        f"approved by {told or 'nobody'}"
    )


def remark(move: plan_file.Move, differs: Mapping[str, str]) -> str | None:
    """What is special about a move."""
    return "is skipped" if move.skip else differs.get(move.guest)


def differences(plan: PlanFile) -> dict[str, str]:
    """{guest: what is no longer as the plan says}, by what is on record of them."""
    asked, found = plan.drain_request().options, dict[str, str | None]()
    with transaction() as session:
        rules = policies.all_of(session)
        for move in plan.going:
            guest = session.get(Guest, move.guest)
            how = asked if guest is None else policies.decided(guest, asked, rules)
            found[move.guest] = plan_file.difference(guest, move.planned, how)
    return {guest: why for guest, why in found.items() if why is not None}


def document(plan: PlanFile) -> Document:
    """The plan as JSON, with its approvals and what is no longer as it says."""
    return {
        **plan.public(),
        "digest": plan.digest,
        "approvals": [{"by": one.by, "at": iso(one.at)} for one in plan_file.approvals(plan)],
        "differences": differences(plan),
    }


def approve(path: Path, *, as_json: bool) -> None:
    """Approve the plan in a file."""
    plan = read(path)
    approval = plan_file.approve(plan, user())
    if as_json:
        output.emit(document(plan))
    else:
        output.say(f"{approval.by} approves the plan {plan.digest[:12]} in {path}, as it is now")


def apply(path: Path, *, dry_run: bool, wait: bool, timeout: float | None, as_json: bool) -> None:
    """Begin the drain of a plan; a dry run asks every guest and every target in it."""
    plan = read(path)
    if dry_run:
        _try(plan, as_json=as_json)
    drain = plan_file.apply(plan, user())
    if wait:
        watch_drain(drain.id, timeout_s=timeout, as_json=as_json)
    note_without_controller()
    drain_view.submitted(documents.drain(drain.id), as_json=as_json)


def _try(plan: PlanFile, *, as_json: bool) -> None:
    request = plan.drain_request()
    with transaction() as session:
        plan_file.check(session, plan, user())
    forecast = planner.forecast(
        request.kind, request.host, request.where, request.terms, request.options, targets=plan.targets(), tried=True
    )
    differs = differences(plan)  # the hosts have just been asked
    told = forecast_document(forecast)
    if as_json:
        output.emit(told | {"differences": differs})
    else:
        drain_submission.print_forecast(told)
        for guest, why in sorted(differs.items()):
            output.say(f"{guest} would be left, it is not as the plan says: {why}")
    refused = differs.keys() | (forecast.plan.left.keys() & plan.targets().keys())
    raise typer.Exit(ExitCode.ROLLED_BACK if refused else ExitCode.DONE)
