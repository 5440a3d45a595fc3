"""The public keys of hosts: pinned at the first move. A changed one counts if the former one has signed it, else only
once an operator says so.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from models import decision_log
from models.database import transaction
from models.host import Host
from models.succession import leads
from workflows.hosts import existing


def pin(session: Session, host: Host) -> None:
    """Make sure that a host can be sent what only it may read.

    Raises:
        PreconditionFailed: its worker has shown no key yet, or another one than before.
    """
    if host.public_key is None:
        raise PreconditionFailed(f"{host.name} has no key yet: start a worker of this version there")
    if host.trusted_key is None:
        host.trusted_key = host.public_key
    elif (another := unproven(host)) and not _follow(session, host):
        raise PreconditionFailed(f"{another}: {remedy(host)}; if not, somebody else may be serving that name")


def unproven(host: Host) -> str | None:
    """What is wrong with the key that a host shows; None: it is the one that is trusted, or the first."""
    if host.trusted_key in {None, host.public_key}:
        return None
    return f"{host.name} shows another key than before, {host.public_key}"


def remedy(host: Host) -> str:
    """How a person finds out whether it is that host's own."""
    return f"if `drover host key` there shows the same, `drover host trust {host.name}`"


def follow_renewed() -> None:
    """Trust the new keys of hosts whose former ones have signed them."""
    changed = select(Host).where(Host.public_key != Host.trusted_key).order_by(Host.name)
    with transaction() as session:
        for host in session.scalars(changed):
            _follow(session, host)


def _follow(session: Session, host: Host) -> bool:
    known, shown = str(host.trusted_key), str(host.public_key)
    if not leads(known, shown, host.name, host.facts.successions):
        return False
    host.trusted_key = shown
    decision_log.add(session, f"{host.name} has a new key, which its former one has signed")
    return True


def of_both(session: Session, source: str, destination: str) -> dict[str, str]:
    """The keys of a move's two hosts, by their names.

    Raises:
        PreconditionFailed: one shows none, or another one than before, or they protect their streams differently.
    """
    hosts = [existing(session, name) for name in sorted((source, destination))]
    for host in hosts:
        pin(session, host)
    one, other = hosts
    if one.facts.streams != other.facts.streams:
        raise PreconditionFailed(
            f"DROVER_STREAMS is {one.facts.streams} on {one.name} and {other.facts.streams} on {other.name}: both need "
            "the same"
        )
    return {host.name: str(host.public_key) for host in hosts}


def of_plan(session: Session, source: str, destination: str) -> dict[str, Any]:
    """The same as fields of a move's plan, and how both hosts came to their keys. Errors as for `of_both`."""
    keys = of_both(session, source, destination)
    told = [each for name in (source, destination) for each in existing(session, name).facts.successions]
    return {"source_key": keys[source], "destination_key": keys[destination], "successions": tuple(told)}


def trust(name: str) -> Host:
    """Take the key that a host shows now for its own.

    Raises:
        PreconditionFailed: there is no such host, or it shows none.
    """
    with transaction() as session:
        host = existing(session, name)
        if host.public_key is None:
            raise PreconditionFailed(f"{name} has no key yet: start a worker of this version there")
        if host.trusted_key != host.public_key:
            host.trusted_key = host.public_key
            decision_log.add(session, f"an operator trusts the key that {name} shows now")
    return host
