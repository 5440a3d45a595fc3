"""From the options of `drover roll` to a roll."""

import shlex
from collections.abc import Sequence
from datetime import timedelta

import typer
from sqlalchemy import select

from drover.cli import output
from drover.cli.drain_submission import print_forecast
from drover.cli.exit_codes import ExitCode
from drover.cli.watching import note_without_controller, watch_roll
from drover.errors import PreconditionFailed
from drover.views import rolls
from drover.views.drain_documents import forecast_document
from models.database import transaction
from models.documents import AllowedHosts, Hook, MigrationOptions
from models.drain import DrainKind
from models.host import Host
from workflows.drain import planner
from workflows.roll import commands
from workflows.roll.commands import RollRequest
from workflows.selectors import Selector


def chosen(named: Sequence[str] | None, selector: str | None) -> list[str]:
    """The hosts that are named, or those that a selector means, by name.

    Raises:
        PreconditionFailed: both or neither is given, or the selector means none.
    """
    if bool(named) == (selector is not None):
        raise PreconditionFailed("name the hosts either by `--host H`, which may be repeated, or by `--hosts SELECTOR`")
    if selector is None:
        return list(named or ())
    wanted = Selector.read(selector).condition(Host.labels)
    with transaction() as session:
        found = list(session.scalars(select(Host.name).where(wanted).order_by(Host.name)))
    if not found:
        raise PreconditionFailed(f"no host is meant by {selector!r}: `drover host list` shows their labels")
    return found


def request(
    hosts: Sequence[str],
    hook: str,
    *,
    hook_timeout: timedelta,
    max_unavailable: int,
    back_within: timedelta,
    to: Sequence[str] | None,
    exclude: Sequence[str] | None,
    max_downtime_ms: int | None,
    bandwidth: int | None,
) -> RollRequest:
    """What was asked for, as typed on the command line.

    Raises:
        PreconditionFailed: one of them is wrong; one sentence names it.
    """
    try:
        argv = tuple(shlex.split(hook))
    except ValueError as error:
        raise PreconditionFailed(f"--hook {hook!r} cannot be split into words: {error}") from error
    if not argv or hook_timeout <= timedelta():
        raise PreconditionFailed("--hook names a program and --hook-timeout is longer than 0")
    made = RollRequest(
        hosts=tuple(hosts),
        hook=Hook(argv=argv, timeout_s=hook_timeout.total_seconds()),
        max_unavailable=max_unavailable,
        back_within=back_within,
        where=AllowedHosts(to=tuple(to or ()), exclude=tuple(exclude or ())),
        options=MigrationOptions().asking(max_downtime_ms=max_downtime_ms, bandwidth_bytes_per_s=bandwidth),
    )
    made.check()
    return made


def plan_and_submit(request: RollRequest, *, dry_run: bool, wait: bool, timeout: float | None, as_json: bool) -> None:
    """Begin the roll and watch it on request; a dry run asks every host who would go where."""
    if dry_run:
        _forecast(request, as_json=as_json)
    roll = commands.submit(request)
    if wait:
        watch_roll(roll.id, timeout_s=timeout, as_json=as_json)
    note_without_controller()
    shot = rolls.snapshot(roll.id)
    if as_json:
        output.emit(rolls.document(shot))
    else:
        output.say(f"{rolls.headline(shot)}: `drover roll watch {roll.id}`")


def _forecast(request: RollRequest, *, as_json: bool) -> None:
    """Each host as if it alone were out, which holds as long as one at a time is and all guests come home."""
    with transaction() as session:
        commands.check(session, request)
    forecasts = [
        forecast_document(planner.forecast(DrainKind.DRAIN, host, request.where, options=request.options, tried=True))
        for host in request.hosts
    ]
    if as_json:
        output.emit({"dry_run": True, "drains": forecasts})
    else:
        for host, one in zip(request.hosts, forecasts, strict=True):
            output.say(f"{host}:")
            print_forecast(one)
    left = any(one["skipped"] for one in forecasts)
    raise typer.Exit(ExitCode.ROLLED_BACK if left else ExitCode.DONE)
