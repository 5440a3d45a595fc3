"""How limits are shown, as text or as JSON."""

from datetime import timedelta

from sqlalchemy import select

from drover import words
from drover.cli import output
from drover.settings import settings
from models import fleet
from models.base import Document
from models.budget import BandwidthHours
from models.database import transaction
from models.fleet import Limits
from models.host import Host
from workflows import schedule
from workflows.fleet_limits import OF_ONE_HOST, reach
from workflows.presence import listed


def show(*, as_json: bool) -> None:
    """Print all limits, with their ranges, and what hosts have of their own."""
    with transaction() as session:
        limits = fleet.limits(session)
        hosts = session.scalars(select(Host).where(listed(settings())).order_by(Host.name)).all()
    own = [
        {"host": host.name, "limit": name, "value": getattr(host, name)}
        for host in hosts
        for name in OF_ONE_HOST
        if getattr(host, name) is not None
    ]
    if as_json:
        output.emit({"limits": document(limits), "hosts": [row | {"value": _plain(row["value"])} for row in own]})
        return
    output.table(
        ("LIMIT", "VALUE", "ALLOWED"),
        [(words.option(name), shown(name, getattr(limits, name)), reach(name)) for name in Limits.model_fields],
    )
    for row in own:
        name = str(row["limit"])
        output.say(f"{row['host']} has its own {words.option(name)}: {shown(name, row['value'])}")


def changed(before: Limits, after: Limits, *, as_json: bool) -> None:
    """Print the limits that changed."""
    if as_json:
        output.emit({"limits": document(after), "before": document(before)})
        return
    for name in Limits.model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            output.say(f"{words.option(name)} is {shown(name, new)} now (before: {shown(name, old)})")
    if before == after:
        output.say("nothing changed: the limits have these values already")


def document(limits: Limits) -> Document:
    """Limits as JSON: durations in seconds."""
    values = {name: _plain(value) for name, value in limits.model_dump().items()}
    return {f"{name}_s" if isinstance(getattr(limits, name), timedelta) else name: n for name, n in values.items()}


def shown(name: str, value: object) -> str:
    """One limit for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return words.duration(value.total_seconds())
    if isinstance(value, BandwidthHours):
        return by_hours(value)
    if name == "bandwidth_bytes_per_s" and isinstance(value, int):
        return _rate(value)
    return str(value)


def by_hours(hours: BandwidthHours | None) -> str:
    """Rates by the time of day, for people."""
    each = hours.hours if hours is not None else ()
    return ", ".join(f"{schedule.Window.of(one.window)}: {_rate(one.bytes_per_s)}" for one in each)


def _rate(bytes_per_s: int) -> str:
    return words.rate(bytes_per_s) if bytes_per_s else "no limit"


def _plain(value: object) -> object:
    if isinstance(value, BandwidthHours):
        return value.json_object()["hours"]
    return value.total_seconds() if isinstance(value, timedelta) else value
