"""Changing the limits of the fleet, and what one host has of its own."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from drover import words
from drover.errors import PreconditionFailed
from drover.settings import FORMER_VARIABLES, Settings, former, settings
from models import fleet
from models.budget import BandwidthHours
from models.controller import wake
from models.database import transaction
from models.fleet import Bandwidth, FleetLimits, Limits, Retention
from models.host import Host
from workflows.hosts import existing
from workflows.presence import listed
from workflows.selectors import relabelled

OF_ONE_HOST = {"bandwidth_bytes_per_s": Bandwidth, "bandwidth_hours": BandwidthHours, "retention": Retention}
"""Limits that a host may have of its own, with their types."""


def change(wanted: Mapping[str, Any]) -> tuple[Limits, Limits]:
    """Change limits, by the names of `Limits`; returns those before and after. They take effect at once.

    Raises:
        PreconditionFailed: a value is out of range, or does not go with the hosts; nothing was changed.
    """
    with transaction() as session:
        session.execute(select(FleetLimits.id).with_for_update())
        before = fleet.limits(session)
        after = _checked(before.model_dump() | dict(wanted))
        _fits_us(after)
        if "max_held" in wanted:  # else what one host reports would keep every other limit as it is
            _fits_the_hosts(session, after.max_held)
        session.execute(update(FleetLimits).values(**after.model_dump(), changed_at=func.clock_timestamp()))
        wake(session)
    return before, after


def _checked(values: Mapping[str, Any]) -> Limits:
    try:
        return Limits.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise PreconditionFailed(out_of_range(str(fault["loc"][0]), fault["input"])) from None


def out_of_range(name: str, wanted: object) -> str:
    """Why a limit cannot be that, and what it can be."""
    return f"{words.option(name)} cannot be {_amount(name, wanted)}: allowed is {reach(name)}"


def named(text: str) -> str:
    """The limit that the command line writes so.

    Raises:
        PreconditionFailed: there is none.
    """
    names = {words.option(name): name for name in Limits.model_fields}
    found = names.get(text.strip(), text.strip())
    if found not in Limits.model_fields:  # JSON has their own names
        raise PreconditionFailed(f"there is no limit {text!r}: there are {', '.join(names)}")
    return found


def is_switch(name: str) -> bool:
    """Whether it is yes or no, and no amount."""
    return Limits.model_fields[name].annotation is bool


def reach(name: str) -> str:
    """The range of a limit, in words."""
    if is_switch(name):
        return "yes or no"
    ends = {end: getattr(mark, end) for mark in _marks(name) for end in ("ge", "le") if hasattr(mark, end)}
    least, most = (_amount(name, ends[end]) for end in ("ge", "le"))
    if name == "bandwidth_bytes_per_s":
        return f"0 (no limit), or {fleet.SLOWEST_BYTES_PER_S} to {most}"
    return f"{least} to {most}"


def _marks(name: str) -> list[Any]:
    found: list[Any] = []
    for mark in Limits.model_fields[name].metadata:
        found += [mark, *getattr(mark, "metadata", ())]
    return found


def _amount(name: str, value: object) -> str:
    if isinstance(value, timedelta):
        return words.duration(value.total_seconds())
    return f"{value} bytes/s" if name == "bandwidth_bytes_per_s" else str(value)


def _fits_us(wanted: Limits) -> None:
    if wanted.host_patience <= settings().host_timeout:
        silent = _amount("host_patience", settings().host_timeout)
        raise PreconditionFailed(
            f"host-patience cannot be {_amount('host_patience', wanted.host_patience)}: a host counts as silent after "
            f"{silent} (four times DROVER_HEARTBEAT_S) and must be waited for longer"
        )


def _fits_the_hosts(session: Session, held: int) -> None:
    for host in session.scalars(select(Host).where(listed(settings())).order_by(Host.name)):
        steps = host.facts.concurrency
        if steps is not None and held >= steps:
            raise PreconditionFailed(_too_many_held(held, host.name, steps))


def _too_many_held(held: int, host: str, steps: int) -> str:
    return (
        f"max-held is {held} and {host} runs {words.count(steps, 'step')} at a time (DROVER_CONCURRENCY): moves that "
        "are held would leave no thread for others; make max-held less or DROVER_CONCURRENCY greater"
    )


def describe_host(
    name: str, wanted: Mapping[str, Any], labels: Sequence[str] = (), unlabel: Sequence[str] = ()
) -> Host:
    """Give one host limits of its own, by the names of `OF_ONE_HOST`, and labels; None is the fleet's again.

    Raises:
        PreconditionFailed: there is no such host, a value is out of range, or a label is wrong.
    """
    with transaction() as session:
        host = existing(session, name)
        host.labels = relabelled(host.labels, labels, unlabel)
        for limit, value in wanted.items():
            try:
                checked = None if value is None else TypeAdapter(OF_ONE_HOST[limit]).validate_python(value)
            except ValidationError:
                raise PreconditionFailed(out_of_range(limit, value)) from None
            setattr(host, limit, checked)
    return host


def warnings(environ: Mapping[str, str], ours: Settings) -> list[str]:
    """Warnings of a service at its start: variables that became limits, and limits that do not go with this host."""
    with transaction() as session:
        limits = fleet.limits(session)
        host = session.get(Host, ours.host) if ours.host else None
    found = [
        f"{variable}={value} is ignored: {FORMER_VARIABLES[variable]} is a limit of the fleet now; "
        f"{_command(variable, value, ours.host)} sets it, then remove the variable"
        for variable, value in former(environ).items()
        if not _in_force(variable, value, limits, host)
    ]
    if ours.host and limits.max_held >= ours.concurrency:
        found.append(_too_many_held(limits.max_held, ours.host, ours.concurrency))
    return found


def _command(variable: str, value: str, host: str) -> str:
    limit, value = FORMER_VARIABLES[variable], value + _unit(variable)
    if host and limit in {"bandwidth", "retention"}:
        return f"`drover host set {host} --{limit} {value}`"
    return f"`drover fleet set {limit}={value}`"


def _unit(variable: str) -> str:
    """Variables have it in their names, commands in the value."""
    if variable.endswith("_BYTES_PER_S"):
        return "B/s"
    return "s" if variable.endswith("_S") else ""


def _in_force(variable: str, value: str, limits: Limits, host: Host | None) -> bool:
    name = named(FORMER_VARIABLES[variable])
    own = getattr(host, name, None)
    now = getattr(limits, name) if own is None else own
    try:
        return float(value) == (now.total_seconds() if isinstance(now, timedelta) else now)
    except ValueError:
        return False
