"""How tokens are shown, as text or as JSON."""

from collections.abc import Sequence
from datetime import UTC, datetime

from drover import words
from drover.cli import output
from drover.views.serializers import iso
from models.access import ApiToken, ConsoleUser
from models.base import Document


def made(token: ApiToken, text: str, *, as_json: bool) -> None:
    """Print a new token."""
    if as_json:
        output.emit({**_document(token), "token": text})
        return
    ends = f" until {token.ends_at:%Y-%m-%d %H:%M %Z}" if token.ends_at else ""
    bound = f", bound to {token.bounds}" if token.bounds.any else ""
    output.say(f"token {token.id}: {token.user} may {token.scope}{bound}{ends}")
    output.say(f"shown only now: {text}")


def listed(tokens: Sequence[ApiToken], people: Sequence[ConsoleUser], *, as_json: bool) -> None:
    """Print a line for each token, and for each person of the console."""
    rows = [_document(token) for token in tokens]
    if as_json:
        output.emit({"tokens": rows, "people": [{"name": one.name, "scope": one.scope.value} for one in people]})
        return
    if not rows:
        output.note("no token yet: nobody can change anything by the API, `drover token add USER` makes one")
    output.table(
        ("ID", "USER", "SCOPE", "BOUND TO", "VALID", "MADE", "UNTIL", "LAST USED"),
        [
            [
                *(token.id, token.user, token.scope, str(token.bounds), "yes" if row["valid"] else "no"),
                *map(words.moment, (row["made_at"], row["revoked_at"] or row["ends_at"], row["used_at"])),
            ]
            for token, row in zip(tokens, rows, strict=True)
        ],
    )
    for one in people:
        output.say(f"{one.name} may {one.scope} in the console")


def revoked(token: ApiToken, *, as_json: bool) -> None:
    """Print that a token is refused now."""
    if as_json:
        output.emit({"id": token.id, "user": token.user, "revoked": True})
    else:
        output.say(f"token {token.id} of {token.user} is refused from now on")


def _document(token: ApiToken) -> Document:
    ended = token.revoked_at is not None or (token.ends_at is not None and token.ends_at <= datetime.now(UTC))
    return {
        "id": token.id,
        "user": token.user,
        "scope": token.scope.value,
        "only": list(token.bounds.actions),
        "hosts": list(token.bounds.hosts),
        "selector": token.bounds.selector,
        "signs_submissions": token.submission_key is not None,
        "valid": not ended,
        "made_at": iso(token.made_at),
        "ends_at": iso(token.ends_at),
        "used_at": iso(token.used_at),
        "revoked_at": iso(token.revoked_at),
    }
