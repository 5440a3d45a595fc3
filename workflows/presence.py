"""Which hosts there are, and which of them have a worker that sent a heartbeat lately."""

from sqlalchemy import ColumnElement, func, select

from drover.errors import Unavailable
from drover.settings import Settings, settings
from models.database import transaction
from models.host import Host, HostState
from workflows import not_there


def known_host(name: str) -> Host:
    """The host with this name, whose worker sent a heartbeat lately.

    Raises:
        PreconditionFailed: there is none, or it is silent.
    """
    with transaction() as session:
        there = (Host.name == name, listed(settings()))
        found = session.execute(select(Host, alive(settings())).where(*there)).one_or_none()
        if found is None:
            raise not_there.host(session, name)
    host, is_alive = found
    if not is_alive:
        raise Unavailable(
            f"host {name} has sent no heartbeat since {host.heartbeat_at:%Y-%m-%d %H:%M:%S %Z}: "
            f"start its worker with `drover worker --host {name}`"
        )
    return host


def alive(ours: Settings) -> ColumnElement[bool]:
    """Hosts whose worker sent a heartbeat lately."""
    return Host.heartbeat_at > func.clock_timestamp() - ours.host_timeout


def listed(ours: Settings) -> ColumnElement[bool]:
    """Hosts that there are: one that was forgotten is there again once its worker is."""
    return (Host.state != HostState.FORGOTTEN) | alive(ours)
