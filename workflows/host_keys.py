"""The public keys of hosts: pinned at the first move, and a changed one counts only once an operator says so."""

from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from models import decision_log
from models.database import transaction
from models.host import Host
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
    elif host.trusted_key != host.public_key:
        raise PreconditionFailed(
            f"{host.name} shows another key than before: if its worker's folder was made anew, `drover host trust "
            f"{host.name}`; if not, somebody else may be serving that name"
        )


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
