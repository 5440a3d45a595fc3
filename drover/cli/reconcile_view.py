"""How the answers of both hosts of unfinished jobs are shown."""

import typer

from drover.cli import output
from drover.cli.backend import operations
from drover.cli.exit_codes import ExitCode
from models.base import Document
from models.job import JobState, Side


def reconcile_and_tell(guest: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Print where each guest runs; unless it is a dry run, resume the jobs whose owner is beyond doubt."""
    found = operations().reconcile(guest, dry_run=dry_run)
    if as_json:
        output.emit(found)
    elif not found["jobs"]:
        output.note("no job is unfinished")
    else:
        for one in found["jobs"]:
            _tell(one)
    if any(one["refused"] for one in found["jobs"]):
        raise typer.Exit(ExitCode.REFUSED)


def _tell(one: Document) -> None:
    output.say(f"job {one['job']}, {one['guest']}: {one['owner']} ({one['why']})")
    for side in Side:
        output.say(f"  {side}: {_sentence(one[side])}")
    if one["resolved"]:
        output.say(f"  it goes on: the {one['owner']} owns the guest")
    elif one["refused"]:
        output.say(f"  it was left as it is: {one['refused']}")
    elif one["state"] == JobState.NEEDS_OPERATOR:
        output.say(f"  {one['error']}")


def _sentence(seen: Document | None) -> str:
    if seen is None:
        return "cannot be asked"
    if not seen["alive"]:
        return "its QEMU is not running"
    return f"its QEMU lives and is {seen['runstate'] or 'silent'}"
