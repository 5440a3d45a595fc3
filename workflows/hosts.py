"""Operators' settings of hosts: whether they take guests."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, func, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from models import decision_log
from models.database import NO_KEY_UPDATE, transaction
from models.drain import UNDER_WAY, Drain, DrainKind
from models.host import Host, HostState
from models.roll import taken_out_by
from workflows import not_there
from workflows.capacity import CLOSED
from workflows.selectors import OWN


def labels_of(name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of a host and, as the label `host`, its name."""
    return {**labels, OWN: name}


def labels() -> ColumnElement[Any]:
    """The same as part of a statement."""
    return func.jsonb_concat(type_coerce(Host.labels, JSONB), func.jsonb_build_object(OWN, Host.name))


def cordon(name: str) -> Host:
    """Let a host take no guest; those that it has stay.

    Raises:
        PreconditionFailed: there is no such host.
    """
    with transaction() as session:
        host = existing(session, name)
        if host.state is HostState.ACTIVE:
            host.state = HostState.CORDONED
            decision_log.add(session, f"an operator cordoned {name}: it takes no guest")
    return host


def uncordon(name: str) -> Host:
    """Let a host take guests again.

    Raises:
        PreconditionFailed: there is no such host, or a drain is emptying it, or a roll has taken it out.
    """
    with transaction() as session:
        host = existing(session, name)
        emptied = Drain.kind == DrainKind.DRAIN
        drain = session.query(Drain).where(Drain.host == name, emptied, Drain.state.in_(UNDER_WAY)).one_or_none()
        if drain is not None:
            raise PreconditionFailed(f"drain {drain.id} is emptying {name}: `drover drain cancel {drain.id}` first")
        if held := taken_out_by(session, name):
            raise PreconditionFailed(held)
        host.state = HostState.ACTIVE
        decision_log.add(session, f"an operator uncordoned {name}: it takes guests again")
    return host


def existing(session: Session, name: str) -> Host:
    """The host with its row locked.

    Raises:
        PreconditionFailed: there is none.
    """
    host = session.get(Host, name, with_for_update=NO_KEY_UPDATE)
    if host is None:
        raise not_there.host(session, name)
    return host


def takes_guests(host: Host) -> None:
    """Refuse a destination that is closed.

    Raises:
        PreconditionFailed: an operator has cordoned it, or it is in maintenance.
    """
    if closed := CLOSED[host.state]:
        raise PreconditionFailed(f"{host.name} takes no guest: {closed} (`drover host uncordon {host.name}`)")
