"""Who may be told by a webhook, and what the messages to each receiver are signed with.

No secret is stored. A receiver's secret follows from a random salt in its row and from a key that only control nodes
have (`DROVER_WEBHOOK_KEY`), so the database alone signs nothing. It is told once, when it is made.
"""

import base64
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from urllib.parse import urlsplit

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.contracts import shown
from models.database import transaction
from models.webhook import Receiver, ReceiverSecret
from workflows.addresses import Address, addresses_of, in_time, is_public, within
from workflows.submissions import is_address, is_host

LOOKUP_S = 3.0
"""So long a submission waits for the address of a name; each message looks it up anew."""
SALT_BYTES = 32
KEY_ID_DIGITS = 16
IN_FORCE = or_(ReceiverSecret.ends_at.is_(None), ReceiverSecret.ends_at > func.clock_timestamp())


@dataclass(frozen=True)
class Allowed:
    """A receiver that was allowed, and what its owner is given."""

    receiver: Receiver
    secret: str | None
    """Told only now; None: the receiver was listed before and keeps its own."""
    addresses: tuple[Address, ...]
    """Of a host, as they are now; empty where nobody knows the name yet."""


def allow(text: str, inside: Sequence[str], ours: Settings) -> Allowed:
    """List a host or a network, or change in which networks a listed host may be.

    Raises:
        PreconditionFailed: it is none, there is no key to make a secret with, or the host is where it may not be.
    """
    name = spelled(text)
    networks = [_network(each) for each in inside]
    wanted = Receiver(name=name, within=[name] if _is_network(name) else networks)
    if networks and _is_network(name):
        raise PreconditionFailed(f"{name} is a network: only a host can be within others")
    found = () if _is_network(name) else _fitting(wanted)
    with transaction() as session:
        receiver = session.get(Receiver, name, with_for_update=True)
        if receiver is not None:
            receiver.within = wanted.within
            return Allowed(receiver, None, found)
        session.add(wanted)
        session.flush()
        return Allowed(wanted, _add_secret(session, name, ours), found)


A_NETWORK = "10.0.0.0/8, which has nothing but zeroes after its first 8 bits"


def spelled(text: str) -> str:
    """How a receiver is listed: a host's name in small letters, a network as `10.0.0.0/8`.

    Raises:
        PreconditionFailed: it is neither.
    """
    name = text.lower()
    try:
        return str(ip_network(name))
    except ValueError:
        if not is_host(name):
            raise PreconditionFailed(
                f"{shown(text)} is neither a host name nor a network: write for example hooks.example.org, or "
                f"{A_NETWORK}"
            ) from None
    return name


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise PreconditionFailed(f"{shown(text)} is no network: write for example {A_NETWORK}") from None


def _is_network(name: str) -> bool:
    return "/" in name


def _fitting(host: Receiver) -> tuple[Address, ...]:
    """Where a host is now, if anybody knows.

    Raises:
        PreconditionFailed: it is nowhere where it may be told.
    """
    found = _looked_up(host.name, 443)
    if found:
        others = [receiver for receiver in listed() if receiver.name != host.name]
        chosen(host.name, found, [host, *others])
    return found


def _looked_up(host: str, port: int) -> tuple[Address, ...]:
    try:
        return in_time(addresses_of(host, port), LOOKUP_S)
    except (PreconditionFailed, TimeoutError):
        return ()


def rotate(names: Sequence[str], overlap: timedelta, ours: Settings) -> dict[str, str]:
    """Give receivers a new secret; the ones before are used beside it until the overlap is over.

    Answers:
        {receiver: secret}, told only now.

    Raises:
        PreconditionFailed: one is not listed, or there is no key; nothing was changed.
    """
    now = func.clock_timestamp()
    made = {}
    with transaction() as session:
        for name in sorted({spelled(text) for text in names}):
            _existing(session, name)
            former = ReceiverSecret.receiver == name
            session.execute(delete(ReceiverSecret).where(former, ReceiverSecret.ends_at <= now))
            session.execute(
                update(ReceiverSecret).where(former).values(ends_at=func.least(ReceiverSecret.ends_at, now + overlap))
            )
            made[name] = _add_secret(session, name, ours)
    return made


def remove(text: str) -> Receiver:
    """Let no message go to a receiver any more; its secrets are of no use then.

    Raises:
        PreconditionFailed: it is not listed.
    """
    with transaction() as session:
        receiver = _existing(session, spelled(text))
        session.delete(receiver)
    return receiver


def _existing(session: Session, name: str) -> Receiver:
    receiver = session.get(Receiver, name, with_for_update=True)
    if receiver is None:
        raise PreconditionFailed(f"the receiver {name} is not listed: see `drover webhook list`")
    return receiver


def listed() -> list[Receiver]:
    """All receivers."""
    with transaction() as session:
        return list(session.scalars(select(Receiver).order_by(Receiver.name)))


# --- Whether a message may go to an address ---------------------------------------------------------------------------


def check(url: str | None) -> None:
    """Refuse a submission whose end could not be told there.

    A name that nobody knows just now is looked up again for each message.

    Raises:
        PreconditionFailed: an operator has not allowed it; the text says how.
    """
    if url is None:
        return
    host, port = host_and_port(url)
    receivers = listed()
    found = _looked_up(host, port) if may_be_one(host, receivers) else ()
    if found or host not in {receiver.name for receiver in receivers}:
        chosen(host, found, receivers)


def told(webhook: object) -> str | None:
    """What somebody named, if a message may go there."""
    if not is_address(webhook):
        return None
    try:
        check(webhook)
    except PreconditionFailed:
        return None
    return webhook


def host_and_port(url: str) -> tuple[str, int]:
    """Where a URL leads.

    Raises:
        PreconditionFailed: nowhere.
    """
    if not is_address(url):
        raise PreconditionFailed("the webhook is no address like https://HOST/PATH")
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]


def may_be_one(host: str, receivers: Sequence[Receiver]) -> bool:
    """By its name, or by an address that it may have. Other names are not even looked up."""
    return any(receiver.name == host or _is_network(receiver.name) for receiver in receivers)


def chosen(
    host: str, addresses: Sequence[Address], receivers: Sequence[Receiver]
) -> tuple[Receiver, tuple[Address, ...]]:
    """Which receiver a host is, by its name or else by the smallest network, and which of its addresses may be used.

    Raises:
        PreconditionFailed: it is none, or none of them may.
    """
    networks = [receiver for receiver in receivers if _is_network(receiver.name)]
    networks.sort(key=lambda receiver: ip_network(receiver.name).prefixlen, reverse=True)
    named = next((receiver for receiver in receivers if receiver.name == host), None)
    for receiver in networks if named is None else [named]:
        fitting = tuple(address for address in addresses if _may_be_at(receiver, address, networks))
        if fitting:
            return receiver, fitting
    if named is None:
        raise PreconditionFailed(
            f"no message may be sent to {host}: an operator allows it with `drover webhook allow {host}`"
        )
    where = addresses[0]
    raise PreconditionFailed(
        f"{host} is {where} now, no public address: an operator allows it there with "
        f"`drover webhook allow {host} {' '.join(f'--within {each}' for each in (*named.within, ip_network(where)))}`"
    )


def _may_be_at(receiver: Receiver, address: Address, networks: Sequence[Receiver]) -> bool:
    """A host may be at any public address; any other must be in a network that somebody listed."""
    if any(within(address, ip_network(network)) for network in receiver.within):
        return True
    if _is_network(receiver.name):
        return False
    return is_public(address) or any(within(address, ip_network(network.name)) for network in networks)


# --- Secrets ----------------------------------------------------------------------------------------------------------


def secrets_of(session: Session, receiver: str, ours: Settings) -> list[str]:
    """What a message to it is signed with now, the newest first: several while a rotation overlaps.

    Raises:
        PreconditionFailed: this process has no key, or another one than they were made with.
    """
    keys = {_key_id(key): key for key in (ours.webhook_key, ours.webhook_key_former) if key}
    if not keys:
        raise PreconditionFailed("the controller has no DROVER_WEBHOOK_KEY to sign with: set it")
    query = select(ReceiverSecret).where(ReceiverSecret.receiver == receiver, IN_FORCE)
    made = session.scalars(query.order_by(ReceiverSecret.id.desc())).all()
    known = [_secret(keys[one.key_id], receiver, one.salt) for one in made if one.key_id in keys]
    if not known:
        raise PreconditionFailed(
            f"the secret of {receiver} was made with another DROVER_WEBHOOK_KEY than the controller has: set that one, "
            f"or make a new secret with `drover webhook rotate {receiver}`"
        )
    return known


def with_former_key(ours: Settings) -> list[str]:
    """Receivers with secrets in force that follow from DROVER_WEBHOOK_KEY_FORMER."""
    theirs = IN_FORCE & (ReceiverSecret.key_id == _key_id(ours.webhook_key_former))
    with transaction() as session:
        found = session.scalars(select(ReceiverSecret.receiver).where(theirs).distinct())
        return sorted(found)


def _add_secret(session: Session, receiver: str, ours: Settings) -> str:
    if not ours.webhook_key:
        raise PreconditionFailed(
            "DROVER_WEBHOOK_KEY is not set here: run this on a control node with its environment, nothing was changed"
        )
    salt = secrets.token_bytes(SALT_BYTES)
    session.add(ReceiverSecret(receiver=receiver, salt=salt, key_id=_key_id(ours.webhook_key)))
    return _secret(ours.webhook_key, receiver, salt)


def _secret(key: str, receiver: str, salt: bytes) -> str:
    """As the receiver is told it, in the form of Standard Webhooks."""
    made = hmac.digest(key.encode(), b"drover webhook secret\0" + receiver.encode() + b"\0" + salt, "sha256")
    return "whsec_" + base64.b64encode(made).decode()


def _key_id(key: str) -> str:
    """Tells keys apart without telling what they are."""
    return hmac.digest(key.encode(), b"drover webhook key", "sha256").hex()[:KEY_ID_DIGITS]
