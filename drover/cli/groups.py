"""Options that several commands take together: each group is declared once, as a dataclass whose fields are options.

A command has one parameter for all of a group. `grouped` shows Typer each field as an option of its own.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import typer

from drover.cli import schedule_options
from drover.cli.options import (
    AsJson,
    Bandwidth,
    Chain,
    DryRun,
    Ladder,
    LauncherStays,
    MaxDowntime,
    MostDowntime,
    Retention,
    SlowestWrites,
    Timeout,
    Verify,
    VerifyRate,
    Wait,
)

Command = TypeVar("Command", bound=Callable[..., None])


def grouped(command: Command) -> Command:
    """Let a command take groups: a parameter whose type is a dataclass stands for an option per field of it."""
    signature = inspect.signature(command)
    annotations: dict[str, Any] = {name: one.annotation for name, one in signature.parameters.items()}
    groups: dict[str, Any] = {name: group for name, group in annotations.items() if is_dataclass(group)}
    expanded = (_options(groups[name]) if name in groups else [one] for name, one in signature.parameters.items())
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for options in expanded for one in options]

    @wraps(command)
    def called(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    shown: Any = called
    shown.__signature__ = signature.replace(parameters=parameters)
    shown.__annotations__ = {one.name: one.annotation for one in parameters}
    return cast("Command", shown)


def _options(group: Any) -> list[inspect.Parameter]:
    kind, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return [
        inspect.Parameter(
            field.name, kind, default=empty if field.default is MISSING else field.default, annotation=field.type
        )
        for field in fields(group)
    ]


@dataclass(frozen=True, kw_only=True)
class PlannedHow:
    """How guests are moved, as far as a plan says so. The fields are those of a submission, likewise below."""

    max_downtime_ms: MaxDowntime = None
    bandwidth: Bandwidth = None
    chain: Chain = "keep"


@dataclass(frozen=True, kw_only=True)
class How(PlannedHow):
    """How guests are moved."""

    most_downtime_ms: MostDowntime = None
    launcher_stays: LauncherStays = False
    verify: Verify = None
    verify_rate: VerifyRate = None
    retention: Retention = None
    ladder: Ladder = None
    slowest_writes: SlowestWrites = None


@dataclass(frozen=True, kw_only=True)
class PlannedWhen:
    """When guests are moved, and who gets to know of the end, as far as a plan says so."""

    at: schedule_options.At = None
    window: schedule_options.Hours = None
    window_end: schedule_options.WindowEnd = "wait"
    timezone: schedule_options.Timezone = "UTC"
    priority: schedule_options.Priority = 0
    webhook: schedule_options.Webhook = None


@dataclass(frozen=True, kw_only=True)
class When(PlannedWhen):
    """When guests are moved."""

    hold: schedule_options.Hold = False
    seed_now: schedule_options.SeedNow = False


@dataclass(frozen=True, kw_only=True)
class RepeatedWhen(When):
    """When a drain is done."""

    every: schedule_options.Every = None


@dataclass(frozen=True, kw_only=True)
class Watching:
    """Whether the command watches what it has begun, and for how long."""

    wait: Wait = False
    timeout: Timeout = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.wait:
            raise typer.BadParameter("--timeout is how long --wait watches: give both, or leave it out")


@dataclass(frozen=True, kw_only=True)
class Execution(Watching):
    """What the command itself does: only look, or begin, and then watch or return."""

    dry_run: DryRun = False
    as_json: AsJson = False
