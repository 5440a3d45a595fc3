"""From the options of `drover migrate` to a job."""

from datetime import timedelta
from typing import NoReturn

import typer

from drover import words
from drover.cli import exit_codes, output
from drover.cli.backend import operations
from drover.cli.options import given
from drover.cli.watching import note_without_controller, watch
from drover.views import read_back, sentences
from drover.views.sentences import verdict
from models.base import Document
from models.documents import MigrationOptions
from workflows import policies
from workflows.submissions import MigrationSubmission


def submit(
    guest: str,
    to: str | None,
    *,
    back: bool,
    max_downtime_ms: int | None,
    most_downtime_ms: int | None,
    bandwidth: int | None,
    launcher_stays: bool,
    verify: bool | None,
    verify_rate: int | None,
    retention: timedelta | None,
    chain: str,
    drop_snapshots: bool,
    thin_factor: float | None,
    layout: Document,
    at: str | None,
    window: str | None,
    window_end: str,
    timezone: str,
    hold: bool,
    seed_now: bool,
    priority: int,
    webhook: str | None,
    idempotency_key: str | None,
    dry_run: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Submit the job, and watch it on request."""
    asked = MigrationSubmission.read(
        given(
            {
                "guest": guest,
                "to": to,
                "back": back,
                "max_downtime_ms": max_downtime_ms,
                "most_downtime_ms": most_downtime_ms,
                "bandwidth": bandwidth,
                "chain": chain,
                "launcher_stays": launcher_stays,
                "drop_snapshots": drop_snapshots,
                "verify": verify,
                "verify_rate": verify_rate,
                "retention": retention,
                "thin_factor": thin_factor,
                "layout": layout,
                "at": at,
                "window": window,
                "window_end": window_end,
                "timezone": timezone,
                "hold": hold,
                "seed_now": seed_now,
                "priority": priority,
                "webhook": webhook,
                "idempotency_key": idempotency_key,
            }
        )
    )
    if dry_run:
        plan(asked, as_json=as_json)
        return
    job = operations().migrate(asked)
    for warning in job["warnings"]:
        output.note(f"warning: {warning}")
    if wait:
        watch(job["id"], timeout_s=timeout, as_json=as_json)
    else:
        _submitted(job, as_json=as_json)


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
        kind, amount = _kind(disk), output.size(disk["virtual_size_bytes"])
        output.say(f"  disk {disk['index']}: {kind}, {amount}: {disk['source_path']} -> {disk['destination_path']}")
    for file in told["files"]:
        becomes = "is there, and equal" if file["there"] else f"is copied, {output.size(file['size_bytes'])}"
        output.say(f"  {file['kind']} {file['source_path']}: {file['destination_path']} {becomes}")
    _say_way_back(told)
    how = "while it runs" if told["ram"] == "live" else "while it is paused"
    output.say(f"  memory: {output.size(told['memory_bytes'])}, copied {how}")
    if (expected := read_back.estimate(told["estimate"])) is not None:
        output.say(f"It takes {sentences.estimate(expected)}")
        if expected.never is not None:
            output.note(f"warning: {told['guest']} may never cross: {expected.never}")
    if decided := policies.told(MigrationOptions.model_validate(told["options"])):
        output.say(f"How: {words.pairs(decided)}")
    for warning in told["warnings"]:
        output.note(f"warning: {warning}")


def _say_way_back(told: Document) -> None:
    if told["way_back"] is not None:
        changed = output.size(told["way_back_bytes"] or 0)
        output.say(
            f"  only what it has written since job {told['way_back']} moved it away from there: {changed} by now"
        )
    elif told["no_way_back"] is not None:
        output.say(f"  all of it, although there are images of it: {told['no_way_back']}")


def _kind(disk: Document) -> str:
    """`qcow2`, or what becomes of it: `raw -> qcow2 on a block device`."""
    was = f"{disk['source_format']} -> " if disk["source_format"] else ""
    made = f" made in {disk['volume_of']}" if disk["volume_of"] else " that is there already"
    return f"{was}{disk['format']}" + (f" on a block device{made}" if disk["destination_device"] else "")
