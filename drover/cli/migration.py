"""`drover migrate`: move a guest."""

from typing import Annotated

import typer

from drover.cli import completion, layout_options, schedule_options
from drover.cli.options import (
    AsJson,
    Bandwidth,
    Chain,
    DropSnapshots,
    DryRun,
    GuestName,
    IdempotencyKey,
    LauncherStays,
    MaxDowntime,
    MostDowntime,
    Retention,
    ThinFactor,
    Timeout,
    Verify,
    VerifyRate,
    Wait,
    examples,
)

app = typer.Typer(add_completion=False)

Destination = Annotated[
    str | None,
    typer.Option("--to", metavar="HOST", help="Where to.", autocompletion=completion.hosts, show_default=False),
]
Back = Annotated[
    bool,
    typer.Option(
        "--back", help="To where it came from. Only what it has written since is sent while its images are kept there."
    ),
]


@app.command(
    epilog=examples(
        "drover migrate web --to hv2 --wait",
        "drover migrate web --to hv2 --dry-run",
        "drover migrate web --back --wait",
        "drover migrate web --to hv2 --bandwidth 100M/s --max-downtime-ms 50",
        "drover migrate web --to hv2 --chain flatten",
        "drover migrate web --to hv2 --verify --verify-rate 50M/s",
        "drover migrate web --to hv2 --idempotency-key nightly-42 --json",
        "drover migrate web --to hv2 --storage fast --format raw --thick",
        "drover migrate web --to hv2 --disk 0=/dev/vg0/web --overwrite-device /dev/vg0/web",
    )
)
def migrate(
    guest: GuestName,
    to: Destination = None,
    back: Back = False,
    wait: Wait = False,
    timeout: Timeout = None,
    max_downtime_ms: MaxDowntime = None,
    most_downtime_ms: MostDowntime = None,
    bandwidth: Bandwidth = None,
    launcher_stays: LauncherStays = False,
    verify: Verify = None,
    verify_rate: VerifyRate = None,
    retention: Retention = None,
    disk: layout_options.Disks = None,
    storage: layout_options.Storages = None,
    image_format: layout_options.Formats = None,
    thick: layout_options.Thick = None,
    overwrite_device: layout_options.Overwritten = None,
    chain: Chain = "keep",
    drop_snapshots: DropSnapshots = False,
    thin_factor: ThinFactor = None,
    at: schedule_options.At = None,
    window: schedule_options.Hours = None,
    window_end: schedule_options.WindowEnd = "wait",
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

    Everything that could prevent the move is checked first; a refusal (exit code 2) has changed nothing.
    """
    from drover.cli import migration_submission

    if to is None and not back:
        raise typer.BadParameter("say where it is to go: --to HOST, or --back")
    layout = layout_options.layout(disk, storage, image_format, thick, overwrite_device)
    migration_submission.submit(
        guest,
        to,
        back=back,
        max_downtime_ms=max_downtime_ms,
        most_downtime_ms=most_downtime_ms,
        bandwidth=bandwidth,
        launcher_stays=launcher_stays,
        verify=verify,
        verify_rate=verify_rate,
        retention=retention,
        chain=chain,
        drop_snapshots=drop_snapshots,
        thin_factor=thin_factor,
        layout=layout,
        at=at,
        window=window,
        window_end=window_end,
        timezone=timezone,
        hold=hold,
        seed_now=seed_now,
        priority=priority,
        webhook=webhook,
        idempotency_key=idempotency_key,
        dry_run=dry_run,
        wait=wait,
        timeout=timeout,
        as_json=as_json,
    )
