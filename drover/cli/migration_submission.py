"""From the options of `drover migrate` to a job."""

from collections.abc import Mapping
from typing import Any, NoReturn

import typer

from drover import words
from drover.cli import exit_codes, output
from drover.cli.backend import operations
from drover.cli.groups import Execution
from drover.cli.options import given
from drover.cli.watching import note_without_controller, watch
from drover.views import read_back, sentences
from drover.views.sentences import verdict
from models.base import Document
from models.documents import MigrationOptions
from workflows import policies
from workflows.submissions import MigrationSubmission


def submit(said: Mapping[str, Any], run: Execution) -> None:
    """Submit the job, and watch it on request."""
    asked = MigrationSubmission.read(given(said))
    if run.dry_run:
        plan(asked, as_json=run.as_json)
        return
    job = operations().migrate(asked)
    for warning in job["warnings"]:
        output.note(f"warning: {warning}")
    if run.wait:
        watch(job["id"], timeout_s=run.timeout, as_json=run.as_json)
    else:
        _submitted(job, as_json=run.as_json)


def _submitted(job: Document, *, as_json: bool) -> NoReturn:
    shot = read_back.job_shot(job)
    if not shot.ended:
        note_without_controller()
    if as_json:
        output.emit(job)
    elif shot.job.state.settled:
        output.say(verdict(shot))
    else:
        output.say(f"job {job['id']} moves {job['guest']} to {job['destination']}: `drover job watch {job['id']}`")
    raise typer.Exit(exit_codes.of_job(shot.job.state))


def plan(asked: MigrationSubmission, *, as_json: bool) -> None:
    """Print what the move would copy, and how long it would take; nothing is changed."""
    told = operations().try_migration(asked)
    if as_json:
        output.emit(told)
        return
    source, to = told["source"], told["destination"]
    output.say(f"{told['guest']} can be moved from {source} to {to}; nothing was changed. It would copy:")
    for disk in told["disks"]:
        kind, amount = _kind(disk), words.size(disk["virtual_size_bytes"])
        output.say(f"  disk {disk['index']}: {kind}, {amount}: {disk['source_path']} -> {disk['destination_path']}")
    for file in told["files"]:
        becomes = "is there, and equal" if file["there"] else f"is copied, {words.size(file['size_bytes'])}"
        output.say(f"  {file['kind']} {file['source_path']}: {file['destination_path']} {becomes}")
    _say_way_back(told)
    how = "while it runs" if told["ram"] == "live" else "while it is paused"
    output.say(f"  memory: {words.size(told['memory_bytes'])}, copied {how}")
    if (expected := read_back.estimate(told["estimate"])) is not None:
        output.say(f"It takes {sentences.estimate(expected)}")
        if expected.never is not None:
            output.note(f"warning: {told['guest']} may never change hosts: {expected.never}")
    if decided := policies.told(MigrationOptions.model_validate(told["options"])):
        output.say(f"How: {words.pairs(decided)}")
    for warning in told["warnings"]:
        output.note(f"warning: {warning}")


def _say_way_back(told: Document) -> None:
    if told["way_back"] is not None:
        changed = words.size(told["way_back_bytes"] or 0)
        output.say(
            f"  only what it has written since job {told['way_back']} has left images of it there: {changed} by now"
        )
    elif told["no_way_back"] is not None:
        output.say(f"  all of it, although images of it were left there: {told['no_way_back']}")


def _kind(disk: Document) -> str:
    """`qcow2`, or what becomes of it: `raw -> qcow2 on a block device`."""
    was = f"{disk['source_format']} -> " if disk["source_format"] else ""
    made = f" made in {disk['volume_of']}" if disk["volume_of"] else " that is there already"
    return f"{was}{disk['format']}" + (f" on a block device{made}" if disk["destination_device"] else "")
