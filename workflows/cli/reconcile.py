"""`drover reconcile`: where does each guest that is being moved really run?"""

from typing import Annotated

import typer

from models.base import Document
from models.job import JobState, Side
from workflows import reconcile
from workflows.cli import completion, output
from workflows.cli.options import AsJson
from workflows.reconcile import Look


def reconcile_guests(
    guest: Annotated[
        str | None,
        typer.Argument(help="This guest only.", autocompletion=completion.guests, show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask both hosts of every unfinished job where its guest really runs. Looks, changes nothing."""
    jobs = reconcile.unfinished(guest)
    looks = [reconcile.look(job) for job in jobs]
    if as_json:
        output.emit({"jobs": [_document(look) for look in looks]})
        return
    if not looks:
        output.note("no job is unfinished")
    for job, look in zip(jobs, looks, strict=True):
        output.say(f"job {look.job_id}, {look.guest}: {look.verdict.owner} ({look.verdict.why})")
        for side, seen in look.seen.items():
            output.say(f"  {side}: {_sentence(seen)}")
        if job.state is JobState.NEEDS_OPERATOR:
            output.say(
                f"  go on: `drover job retry {job.id}`, or `drover job resolve {job.id} --owner source|destination`"
            )


def _document(look: Look) -> Document:
    return {
        "job": look.job_id,
        "guest": look.guest,
        "owner": look.verdict.owner,
        "why": look.verdict.why,
        "source": look.seen[Side.SOURCE],
        "destination": look.seen[Side.DESTINATION],
    }


def _sentence(seen: reconcile.Seen | None) -> str:
    if seen is None:
        return "cannot be asked"
    if not seen["alive"]:
        return "its QEMU is not running"
    return f"QEMU lives, runstate {seen['runstate'] or 'not told'}, migration {seen['migration'] or 'not told'}"
