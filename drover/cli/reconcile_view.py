"""Asking both hosts of unfinished jobs, and how the answers are shown."""

import typer

from drover.cli import output
from drover.cli.exit_codes import ExitCode
from drover.errors import PreconditionFailed
from models.base import Document
from models.host_rpc import Observation
from models.job import Job, JobState, Side
from workflows.migration import operator_actions, reconcile
from workflows.migration.reconcile import Look


def reconcile_and_tell(guest: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Print where each guest runs; unless it is a dry run, resume the jobs whose owner is beyond doubt."""
    found = [(job, reconcile.look(job)) for job in reconcile.unfinished_jobs(guest)]
    resolved, refused = dict[int, bool](), dict[int, str]()
    for job, look in found:
        resolved[job.id] = False
        try:
            resolved[job.id] = not dry_run and operator_actions.by_what_was_seen(job, look)
        except PreconditionFailed as error:  # somebody else has decided meanwhile: the other jobs are not affected
            refused[job.id] = str(error)
    _tell(found, resolved, refused, as_json)
    if refused:
        raise typer.Exit(ExitCode.REFUSED)


def _tell(found: list[tuple[Job, Look]], resolved: dict[int, bool], refused: dict[int, str], as_json: bool) -> None:
    if as_json:
        about = [
            _document(look) | {"resolved": resolved[job.id], "refused": refused.get(job.id)} for job, look in found
        ]
        output.emit({"jobs": about})
        return
    if not found:
        output.note("no job is unfinished")
    for job, look in found:
        output.say(f"job {look.job_id}, {look.guest}: {look.verdict.owner} ({look.verdict.why})")
        for side, seen in look.seen.items():
            output.say(f"  {side}: {_sentence(seen)}")
        if resolved[job.id]:
            output.say(f"  it goes on: the {look.verdict.owner} owns the guest")
        elif job.id in refused:
            output.say(f"  it was left as it is: {refused[job.id]}")
        elif job.state is JobState.NEEDS_OPERATOR:
            output.say(f"  {job.error}")


def _document(look: Look) -> Document:
    return {
        "job": look.job_id,
        "guest": look.guest,
        "owner": look.verdict.owner,
        "why": look.verdict.why,
        "source": _observation(look, Side.SOURCE, {"told_to_run", "went_on"}),
        "destination": _observation(look, Side.DESTINATION, {"may_run"}),
    }


def _observation(look: Look, side: Side, of_this_side: set[str]) -> Document | None:
    seen = look.seen[side]
    return None if seen is None else seen.model_dump(include={"alive", "runstate", "migration"} | of_this_side)


def _sentence(seen: Observation | None) -> str:
    if seen is None:
        return "cannot be asked"
    if not seen.alive:
        return "its QEMU is not running"
    return f"its QEMU lives and is {seen.runstate or 'silent'}"
