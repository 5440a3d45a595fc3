"""Options that say when a move or a drain may happen."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from workflows.migration.jobs import Changes

At = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Not before: 22:00, or 2026-11-24T22:00.", show_default="at once"),
]
Hours = Annotated[
    str | None,
    typer.Option(
        "--window",
        metavar="FROM-TO",
        help="Every day's hours, like 22:00-04:00: nothing begins that would not end within them by estimate, and no "
        "guest changes hosts outside of them.",
        show_default="always",
    ),
]
NewHours = Annotated[
    str | None,
    typer.Option(
        "--window",
        metavar="FROM-TO",
        help="Every day's hours; '' is always. Moves whose switchover has not begun obey.",
        show_default="as it is",
    ),
]
WindowEnd = Annotated[
    Literal["wait", "rollback"],
    typer.Option(
        help="When the window closes before the switchover: the disks are kept in sync until the next one, or all is "
        "rolled back."
    ),
]
Timezone = Annotated[str, typer.Option(metavar="ZONE", help="In which --at, --window and --every are meant.")]
Hold = Annotated[
    bool,
    typer.Option("--hold", help="Copy the disks and keep them in sync; the RAM follows after `drover job release`."),
]
SeedNow = Annotated[
    bool,
    typer.Option("--seed-now", help="Copy the disks at once; only RAM and switchover wait for --at and --window."),
]
Priority = Annotated[int, typer.Option(metavar="N", help="Moves of higher priority begin first.")]
Every = Annotated[
    str | None,
    typer.Option(
        metavar="CRON",
        help="Repeat it, like '0 22 * * 6' for Saturdays at 22:00; `drover drain cancel` ends it.",
        show_default=False,
    ),
]
Webhook = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Report the end to this address, by a signed POST.", show_default=False),
]


def changes(
    bandwidth: int | None, max_downtime_ms: int | None, window: str | None, timezone: str, priority: int | None
) -> "Changes":
    """What `job set` and `drain set` are to change.

    Raises:
        PreconditionFailed: one of them cannot be that.
    """
    from workflows.migration.jobs import Changes

    if {bandwidth, max_downtime_ms, window, priority} == {None}:
        raise typer.BadParameter("say what to change: --bandwidth, --max-downtime-ms, --window or --priority")
    return Changes.of(
        window, timezone, bandwidth_bytes_per_s=bandwidth, max_downtime_ms=max_downtime_ms, priority=priority
    )
