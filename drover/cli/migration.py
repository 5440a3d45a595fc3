"""`drover migrate`: move a guest."""

from typing import Annotated, Any

import typer

from drover.cli import completion, exit_codes, output, queries, schedule_options
from drover.cli.options import AsJson, GuestName, Timeout, Wait, rate
from drover.cli.watching import emit_job, note_without_controller, verdict, watch
from workflows import guests, submit_options
from workflows.migration import jobs, preflight
from workflows.migration.jobs import MigrationOptions

Destination = Annotated[
    str,
    typer.Option("--to", metavar="HOST", help="Where to.", autocompletion=completion.hosts, show_default=False),
]
MaxDowntime = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="The pause that is aimed at, in ms: RAM is copied while the guest runs until the rest fits.",
    ),
]
Bandwidth = Annotated[
    Any,
    typer.Option(
        metavar="RATE",
        parser=rate,
        help="Bytes per second for this move, like 100M/s (or 64Mi/s).",
        show_default="the host's budget",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        metavar="K",
        help="Submit once only: with a key that was used before, the job of then is answered.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]


def migrate(
    guest: GuestName,
    to: Destination,
    wait: Wait = False,
    timeout: Timeout = None,
    max_downtime_ms: MaxDowntime = MigrationOptions.max_downtime_ms,
    bandwidth: Bandwidth = "0",
    at: schedule_options.At = None,
    window: schedule_options.Hours = None,
    timezone: schedule_options.Timezone = "UTC",
    hold: schedule_options.Hold = False,
    seed_now: schedule_options.SeedNow = False,
    priority: schedule_options.Priority = 0,
    webhook: schedule_options.Webhook = None,
    idempotency_key: IdempotencyKey = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move a running guest, its disks included, to another host.

    Everything that could be in the way is checked first; a refusal (exit code 2) has changed nothing.
    """
    if dry_run:
        _plan(guest, to, as_json=as_json)
        return
    options = MigrationOptions(max_downtime_ms=max_downtime_ms, bandwidth_bytes_per_s=bandwidth)
    asked = submit_options.read(
        at=at, window=window, timezone=timezone, hold=hold, seed_now=seed_now, priority=priority, webhook=webhook
    )
    job = jobs.submit(guest, to, options=options, terms=asked, idempotency_key=idempotency_key)
    for warning in queries.events(job.id, "warning"):
        output.note(f"warning: {warning.sentence}")
    if wait:
        watch(job.id, timeout_s=timeout, as_json=as_json)
    else:
        _submitted(job.id, as_json=as_json)


def _submitted(job_id: int, *, as_json: bool) -> None:
    shot = queries.snapshot(job_id)
    if not shot.ended:
        note_without_controller()
    if as_json:
        emit_job(job_id)
    elif shot.job.state.ended:
        output.say(verdict(shot))
    else:
        output.say(f"job {job_id} moves {shot.job.guest} to {shot.job.destination}: `drover job watch {job_id}`")
    raise typer.Exit(exit_codes.of_job(shot.job.state))


def _plan(guest: str, to: str, *, as_json: bool) -> None:
    row = guests.known_guest(guest)
    planned = preflight.plan(row, to)
    destination, disks = planned["destination"], planned["disks"]
    if as_json:
        names = ("index", "format", "source_path", "destination_path", "virtual_size_bytes")
        output.emit(
            {
                "dry_run": True,
                "guest": row.name,
                "source": row.host,
                "destination": to,
                "ram": destination["ram"],
                "memory_bytes": planned["source"]["memory_bytes"],
                "disks": [{name: disk[name] for name in names} for disk in disks],
                "warnings": destination["warnings"],
            }
        )
        return
    output.say(f"{row.name} can be moved from {row.host} to {to}; nothing was changed. It would take:")
    for disk in disks:
        amount = output.size(disk["virtual_size_bytes"])
        output.say(
            f"  disk {disk['index']}: {disk['format']}, {amount}: {disk['source_path']} -> {disk['destination_path']}"
        )
    how = "while it runs" if destination["ram"] == "live" else "while it is paused"
    output.say(f"  memory: {output.size(planned['source']['memory_bytes'])}, copied {how}")
    for warning in destination["warnings"]:
        output.note(f"warning: {warning}")
