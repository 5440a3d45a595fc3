"""What describes a guest is signed by the host that saw it running, and by nobody else.

The database carries the description from one host to the other. Whoever may write there cannot change it.
"""

import json

from drover.errors import PreconditionFailed, UnreadableDocument
from drover.settings import Settings
from models.plan import Attestation, Inspection, Statement
from workers.process.machine import machine
from workers.trust import host_key, known_hosts

PURPOSE = b"drover: description of a guest, 1\n"
"""A signature for anything else is none for this."""


def attested(seen: Inspection, ours: Settings) -> Inspection:
    """The description with this host's signature."""
    told = Statement(host=ours.host, guest_root=str(ours.guest_root), machine=machine(), inspection=seen)
    statement, key = json.dumps(told.json_object()), host_key.public(ours)
    return seen.model_copy(
        update={
            "attestation": Attestation(
                host=ours.host,
                public_key=key,
                statement=statement,
                signature=host_key.sign(ours, PURPOSE + statement.encode(), by=key),
                successions=host_key.successions(ours),
            )
        }
    )


def proven(said: Inspection, ours: Settings, *, of: str | None = None) -> Statement:
    """What a host really said of its guest. Nothing else in `said` may be relied upon.

    With `of` only that host may have said it; without, any host that this one trusts.

    Raises:
        PreconditionFailed: no host that this one trusts has signed it.
    """
    attestation = said.attestation
    if attestation is None:
        raise PreconditionFailed("the description of the guest is not signed: upgrade the worker of the guest's host")
    host = attestation.host
    try:
        host_key.verify(attestation.public_key, PURPOSE + attestation.statement.encode(), attestation.signature)
        statement = Statement.read(json.loads(attestation.statement))
    except (host_key.NotFromThatHost, UnreadableDocument, ValueError) as error:
        raise PreconditionFailed(f"the description of the guest is not what {host} signed: {error}") from error
    if statement.host != host or (of is not None and host != of):
        raise PreconditionFailed(
            f"the description of the guest is signed by {statement.host}, which is not {of or host}"
        )
    known_hosts.refuse_unknown(host, attestation.public_key, ours, attestation.successions)
    if said.model_copy(update={"attestation": None}) != statement.inspection:
        raise PreconditionFailed(f"the description of the guest was changed after {host} had signed it")
    return statement
