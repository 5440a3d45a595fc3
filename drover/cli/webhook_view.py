"""How receivers of webhooks are shown, as text or as JSON."""

from collections.abc import Mapping, Sequence

from drover import words
from drover.cli import output
from drover.views.serializers import iso
from models.base import Document
from models.webhook import Receiver
from workflows.receivers import Allowed


def allowed(what: Allowed, *, as_json: bool) -> None:
    """Print that a receiver is listed, and its secret if it has a new one."""
    name, where = what.receiver.name, what.receiver.within
    if as_json:
        output.emit({"name": name, "within": where, "secret": what.secret, "addresses": list(map(str, what.addresses))})
        return
    if "/" not in name and not what.addresses:
        output.note(f"{name} has no address here now: it is looked up anew for each message")
    if what.secret is None:
        output.say(f"{name} was listed before and keeps its secret; {_places(what.receiver)}")
        return
    output.say(f"messages may go to {name}; {_places(what.receiver)}")
    output.say(f"its secret, shown only now: {what.secret}")


def _places(receiver: Receiver) -> str:
    if "/" in receiver.name:
        return "that is, to every host there"
    return f"it may be at public addresses{''.join(f' and in {network}' for network in receiver.within)}"


def listed(receivers: Sequence[Receiver], *, as_json: bool) -> None:
    """Print a line for each receiver."""
    rows = [_document(receiver) for receiver in receivers]
    if as_json:
        output.emit({"receivers": rows})
        return
    if not rows:
        output.note("no receiver yet: no webhook is sent anywhere, `drover webhook allow HOST` lists one")
    output.table(
        ("RECEIVER", "WITHIN", "ALLOWED SINCE", "SECRET SINCE", "FORMER SECRET UNTIL"),
        [
            (
                *(row["name"], " ".join(row["within"])),
                *map(words.moment, (row["allowed_at"], row["secret_since"], row["former_until"])),
            )
            for row in rows
        ],
    )


def _document(receiver: Receiver) -> Document:
    made = [secret.made_at for secret in receiver.secrets]
    ends = [secret.ends_at for secret in receiver.secrets if secret.ends_at is not None]
    return {
        "name": receiver.name,
        "within": receiver.within,
        "allowed_at": iso(receiver.allowed_at),
        "secret_since": iso(max(made, default=None)),
        "former_until": iso(max(ends, default=None)),
    }


def rotated(secrets: Mapping[str, str], overlap: str, *, as_json: bool) -> None:
    """Print the new secrets."""
    if as_json:
        output.emit({"receivers": [{"name": name, "secret": secret} for name, secret in secrets.items()]})
        return
    for name, secret in secrets.items():
        output.say(f"the new secret of {name}, shown only now: {secret}")
    output.say(f"messages are signed with the former secret as well for {overlap}")


def removed(receiver: Receiver, *, as_json: bool) -> None:
    """Print that a receiver is listed no more."""
    if as_json:
        output.emit({"name": receiver.name, "removed": True})
    else:
        output.say(f"no message goes to {receiver.name} any more")
