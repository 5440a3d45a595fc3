"""From the options of `drover migrate` to a job."""

from collections.abc import Mapping
from typing import Any

import typer

from drover import words
from drover.cli import exit_codes, output
from drover.cli.groups import Execution
from drover.cli.options import given
from drover.cli.watching import emit_job, note_without_controller, watch
from drover.views import queries, sentences, serializers
from drover.views.sentences import verdict
from models.plan import DestinationPlan, PlannedDisk
from workflows import guests, policies
from workflows.migration import jobs, preflight
from workflows.submissions import MigrationSubmission

FILE_FIELDS = {"kind", "source_path", "destination_path", "size_bytes", "there"}


def submit(said: Mapping[str, Any], run: Execution) -> None:
    """Submit the job, and watch it on request."""
    asked = MigrationSubmission.read(given(said))
    if run.dry_run:
        plan(asked, as_json=run.as_json)
        return
    options, terms = asked.options(), asked.submit_options()
    to, key = guests.destination(asked), asked.idempotency_key
    job = jobs.submit(asked.guest, to, options=options, terms=terms, idempotency_key=key)
    for warning in queries.events(job.id, "warning"):
        output.note(f"warning: {warning.sentence}")
    if run.wait:
        watch(job.id, timeout_s=run.timeout, as_json=run.as_json)
    else:
        _submitted(job.id, as_json=run.as_json)


def _submitted(job_id: int, *, as_json: bool) -> None:
    shot = queries.snapshot(job_id)
    if not shot.ended:
        note_without_controller()
    if as_json:
        emit_job(job_id)
    elif shot.job.state.settled:
        output.say(verdict(shot))
    else:
        output.say(f"job {job_id} moves {shot.job.guest} to {shot.job.destination}: `drover job watch {job_id}`")
    raise typer.Exit(exit_codes.of_job(shot.job.state))


def plan(asked: MigrationSubmission, *, as_json: bool) -> None:
    """Print what the move would copy, and how long it would take; nothing is changed."""
    row, to = guests.known_guest(asked.guest), guests.destination(asked)
    options = policies.of(row, asked.options(), drained=False)
    planned = preflight.plan(row, to, options, tried=True)
    expected = preflight.estimated(row, to, options, asked.submit_options(), planned)
    looked_at = (*planned.source.checks, *planned.destination.checks)
    if as_json:
        names = {"index", "format", "source_path", "destination_path", "virtual_size_bytes"}
        output.emit(
            {
                "dry_run": True,
                "guest": row.name,
                "source": row.host,
                "destination": to,
                "ram": planned.destination.ram,
                "memory_bytes": planned.source.memory_bytes,
                "disks": [disk.model_dump(mode="json", include=names) for disk in planned.disks],
                "estimate": serializers.estimate_document(expected),
                "files": [file.model_dump(mode="json", include=FILE_FIELDS) for file in planned.destination.files],
                "options": options.public(),
                "way_back": planned.destination.way_back,
                "no_way_back": planned.destination.no_way_back,
                "warnings": preflight.warnings(planned, options),
                "checks": [check.json_object() for check in looked_at],
            }
        )
        return
    output.say(f"{row.name} can be moved from {row.host} to {to}; nothing was changed. It would copy:")
    for disk in planned.disks:
        amount = words.size(disk.virtual_size_bytes)
        output.say(f"  disk {disk.index}: {_kind(disk)}, {amount}: {disk.source_path} -> {disk.destination_path}")
    for file in planned.destination.files:
        becomes = "is there, and equal" if file.there else f"is copied, {words.size(file.size_bytes)}"
        output.say(f"  {file.kind} {file.source_path}: {file.destination_path} {becomes}")
    _say_way_back(planned.destination)
    while_it = "while it runs" if planned.destination.ram == "live" else "while it is paused"
    output.say(f"  memory: {words.size(planned.source.memory_bytes)}, copied {while_it}")
    output.say(f"It takes {sentences.estimate(expected)}")
    if expected.never is not None:
        output.note(f"warning: {row.name} may never cross: {expected.never}")
    if how := policies.told(options):
        output.say(f"How: {words.pairs(how)}")
    for warning in preflight.warnings(planned, options):
        output.note(f"warning: {warning}")


def _say_way_back(planned: DestinationPlan) -> None:
    if planned.way_back is not None:
        changed = words.size(planned.way_back_bytes or 0)
        output.say(
            f"  only what it has written since job {planned.way_back} moved it away from there: {changed} by now"
        )
    elif planned.no_way_back is not None:
        output.say(f"  all of it, although there are images of it: {planned.no_way_back}")


def _kind(disk: PlannedDisk) -> str:
    """`qcow2`, or what becomes of it: `raw -> qcow2 on a block device`."""
    was = f"{disk.source_format} -> " if disk.source_format else ""
    made = f" made in {disk.volume_of}" if disk.volume_of else " that is there already"
    return f"{was}{disk.format}" + (f" on a block device{made}" if disk.destination_device else "")
