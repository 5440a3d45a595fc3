"""Options and arguments that several commands share."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drover.cli import completion

if TYPE_CHECKING:
    from models.budget import BandwidthHours

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
JobId = Annotated[
    int, typer.Argument(metavar="ID", help="The job's number.", autocompletion=completion.jobs, show_default=False)
]
GuestName = Annotated[
    str,
    typer.Argument(metavar="GUEST", help="The guest's name.", autocompletion=completion.guests, show_default=False),
]
HostName = Annotated[
    str,
    typer.Argument(metavar="HOST", help="The host's name.", autocompletion=completion.hosts, show_default=False),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Stop watching after this time; the job goes on (exit code 5).",
        show_default="never",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Show progress until the end; the exit code is the result.")]

RATE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]i?)?(?P<bytes>b)?(/s)?", re.IGNORECASE)


def rate(text: str) -> int:
    """Bytes per second from `100M/s`: K, M, G and T are powers of 1000, Ki, Mi, Gi and Ti of 1024.

    One without a unit is refused, but for 0: 100 for 100M/s would be a move that takes for ever.
    """
    found = RATE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a rate: write for example 100M/s, 1G/s or 64Mi/s")
    unit = (found["unit"] or "").lower()
    if not unit and not found["bytes"] and float(found["number"]):
        number = found["number"]
        raise typer.BadParameter(f"{number} has no unit: write {number}M/s for megabytes per second, or {number}K/s")
    base = 1024 if unit.endswith("i") else 1000
    exponent = " kmgt".index(unit[0]) if unit else 0
    return int(float(found["number"]) * base**exponent)


DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*", re.IGNORECASE)
SECONDS = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> timedelta:
    """From `90s`, `10m`, `7d` or, as it is shown, `1 h 30 min`.

    One without a unit is refused, but for 0: 7 for 7d would delete images.
    """
    text = text.strip()
    if text.isdecimal() and int(text):
        raise typer.BadParameter(f"{text} has no unit: write {text}h for hours, {text}d for days, or {text}s")
    parts = DURATION.findall(text)
    if text == "0" or (parts and not DURATION.sub("", text)):
        with suppress(OverflowError):
            return timedelta(seconds=sum(float(number) * SECONDS[unit.lower()] for number, unit in parts))
    raise typer.BadParameter(f"{text!r} is not a duration: write for example 90s, 10m, 24h or 7d")


BandwidthAt = Annotated[
    list[str] | None,
    typer.Option(
        "--bandwidth-at",
        metavar="FROM-TO=RATE",
        help="Another rate in these hours of every day, like 08:00-20:00=200M/s; may be repeated, the first that is "
        "open counts; '' is none.",
        show_default="as it is",
    ),
]
Selected = Annotated[
    str | None,
    typer.Option(
        "--selector",
        metavar="LABELS",
        help="Only with these labels: KEY=VALUE, KEY=A|B, KEY!=VALUE, KEY, !KEY; commas between them.",
        show_default="all",
    ),
]
Label = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY[=VALUE]", help="Set a label; may be repeated.", show_default=False),
]
Unlabel = Annotated[
    list[str] | None,
    typer.Option("--unlabel", metavar="KEY", help="Take a label away; may be repeated.", show_default=False),
]


def by_hours(texts: Sequence[str], timezone: str) -> "BandwidthHours | None":
    """What `--bandwidth-at` says.

    Raises:
        PreconditionFailed: hours or a rate are not understood.
    """
    from workflows import budgets, schedule

    said = [text for text in texts if text]
    schedule.refuse_idle_zone(timezone, *said)
    if said and len(said) < len(texts):
        raise typer.BadParameter("--bandwidth-at '' is none: give it alone, or leave it out")
    for text in said:
        if "=" not in text:
            raise typer.BadParameter(f"{text!r} is not understood: write for example 08:00-20:00=200M/s")
    return budgets.hours(said, timezone, {text.partition("=")[2]: rate(text.partition("=")[2]) for text in said})


def ladder(text: str) -> tuple[str, ...]:
    """From `slow-cpu,ask,give-up`."""
    from models.documents import Measure
    from workflows.submissions import LADDER_SAYS, NO_POSTCOPY

    measures = tuple(part.strip() for part in text.split(","))
    if "postcopy" in measures:
        raise typer.BadParameter(f"{NO_POSTCOPY}, so whichever host died would take the guest with it")
    if len(set(measures)) < len(measures) or not {*measures} <= {*Measure}:
        raise typer.BadParameter(f"{text!r} is not {LADDER_SAYS}")
    return measures


FIELDS = {
    "bandwidth": "bandwidth_bytes_per_s",
    "verify_rate": "verify_bytes_per_s",
    "slowest_writes": "slowest_writes_bytes_per_s",
    "retention": "retention_s",
    "watch": "watch_s",
    "hook_timeout": "hook_timeout_s",
    "back_within": "back_within_s",
}
"""{option: the field of a submission that it fills}, of those whose names differ."""


def given(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a submission that were typed, by its names. What was left out policies decide."""
    return {
        FIELDS.get(name, name): value.total_seconds() if isinstance(value, timedelta) else value
        for name, value in asked.items()
        if value is not None
    }


def examples(*commands: str) -> str:
    """An epilog with one example per line."""
    return block("Examples", *("$ " + command.replace("[", r"\[") for command in commands))


def block(title: str, *lines: str) -> str:
    """An epilog: a title and its lines."""
    return "\n".join([f"[bold]{title}[/bold]", *lines])


MaxDowntime = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Target downtime in ms: RAM is copied while the guest runs until the rest can be sent in this time.",
        show_default="300",
    ),
]
MostDowntime = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="To what the target downtime may be raised if RAM changes as fast as it is sent.",
        show_default="not raised",
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
NewBandwidth = Annotated[
    Any,
    typer.Option(
        "--bandwidth",
        metavar="RATE",
        parser=rate,
        help="Bytes per second, like 100M/s; 0 leaves it to the budgets. Disks and RAM obey within two seconds.",
        show_default="as it is",
    ),
]
NewMaxDowntime = Annotated[
    int | None,
    typer.Option("--max-downtime-ms", metavar="N", min=1, help="Target downtime in ms.", show_default="as it is"),
]
NewPriority = Annotated[
    int | None,
    typer.Option("--priority", metavar="N", help="Until it begins: higher ones first.", show_default="as it is"),
]
Ladder = Annotated[
    Any,
    typer.Option(
        "--ladder",
        metavar="MEASURES",
        parser=ladder,
        help="What is done, in this order, if RAM changes or disks are written as fast as they are sent: of slow-cpu, "
        "slow-writes, longer, ask, give-up; commas between them.",
        show_default="slow-cpu,longer,ask,give-up",
    ),
]
SlowestWrites = Annotated[
    Any,
    typer.Option(
        metavar="RATE",
        parser=rate,
        help="With slow-writes: what a guest may always write to each disk.",
        show_default="1M/s",
    ),
]
Retention = Annotated[
    Any,
    typer.Option(
        metavar="TIME",
        parser=duration,
        help="How long the images that the guest leaves behind are kept, like 7d.",
        show_default="as the host or the fleet",
    ),
]
LauncherStays = Annotated[
    bool,
    typer.Option(
        "--launcher-stays",
        help="Move it although what launched it may start it again there: a folder takes the place of its image.",
    ),
]
Verify = Annotated[
    bool | None,
    typer.Option(
        "--verify/--no-verify",
        help="Compare both sides of each disk end to end after the switchover, before the source's images are let go.",
        show_default="not compared",
    ),
]
VerifyRate = Annotated[
    Any,
    typer.Option(
        metavar="RATE",
        parser=rate,
        help="Bytes per second that either host reads for that; 0: no limit.",
        show_default="200M/s",
    ),
]
Chain = Annotated[
    str,
    typer.Option(
        metavar="keep|flatten",
        help="Backing files of disks: keep them (the destination gets them as well, a shared base once), "
        "or have each image hold all by itself.",
    ),
]
DropSnapshots = Annotated[
    bool,
    typer.Option(
        "--drop-snapshots",
        help="Move it without the internal snapshots of its qcow2 images: they stay in the former images alone.",
    ),
]
ThinFactor = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1000,
        help="How far the destination's storage may be over-committed: 1/N of what thin disks have not written counts.",
        show_default="as set there",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        metavar="K",
        help="Submit once only: with a key that was used before, the earlier job is returned and none is added. "
        "Another move with the same key is refused.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")]

Since = Annotated[
    Any,
    typer.Option(
        metavar="TIME",
        parser=duration,
        help="All that were submitted in this time, like 24h or 7d, those that have ended too.",
        show_default=False,
    ),
]
AsHtml = Annotated[bool, typer.Option("--html", help="As one HTML page that needs nothing else (the default).")]
