"""The key pair of this host: made when its worker first starts, in the worker's folder, readable by its owner only.

One Ed25519 seed. The public half stands in the host's row, see `workflows.host_keys`. What one host seals for another
only that one can open, and it knows from whom it is (libsodium's `Box`, the keys turned into X25519).

A key is renewed while moves go on: the former one signs the new one, and is kept for moves that were planned with it.
"""

import json
import os
import time
from base64 import b64decode, b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock
from nacl.exceptions import CryptoError
from nacl.public import Box
from nacl.signing import SigningKey, VerifyKey

from drover.errors import DroverError, Fatal
from drover.settings import Settings
from models.contracts import Part
from models.succession import Succession, signed
from workers import files
from workers.files import write_durably
from workers.trust.own_file import content, edited


class NotFromThatHost(DroverError):
    """What was sealed or signed is not by that host's key, or is not for this host."""


NAME = "host.key"
FORMER = "former_keys.json"
"""{public half: a `FormerKey`}"""
KEPT = timedelta(days=30)
"""A move that was planned with a former key may begin so long after the change."""
SHOWN = 8
"""Changes that a host tells of: one that has missed more of them has to be told the key."""


class FormerKey(Part):
    """A key that this host had before."""

    seed: str | None
    """None: it is forgotten."""
    until: float
    """When it was renewed, in seconds since 1970."""
    succession: Succession
    """What it has signed."""


def exists(ours: Settings) -> bool:
    """A worker of a version that has keys has started here before."""
    return (ours.directory / NAME).exists()


def public(ours: Settings) -> str:
    """The public half, as it stands in the host's row."""
    return _text(bytes(_key(ours).verify_key))


def renew(ours: Settings) -> Succession:
    """Have another key from now on, which the present one signs."""
    with FileLock(ours.directory / f"{NAME}.lock", mode=0o600):
        key, following = _key(ours), SigningKey.generate()
        was, now = (_text(bytes(each.verify_key)) for each in (key, following))
        signature = _text(key.sign(signed(ours.host, was, now)).signature)
        succession = Succession(host=ours.host, former=was, key=now, signature=signature)
        with edited(ours.directory / FORMER) as former:  # first: whatever happens now, the key is not lost
            kept = FormerKey(seed=_text(bytes(key)), until=time.time(), succession=succession)
            former[was] = kept.json_object()
        write_durably(ours.directory / NAME, _text(bytes(following)))
    return succession


def successions(ours: Settings) -> tuple[Succession, ...]:
    """How this host came to its present key, if it had others before: the newest few changes."""
    told = sorted(_former(ours).values(), key=lambda each: each.until)
    return tuple(each.succession for each in told[-SHOWN:])


def all_public(ours: Settings) -> set[str]:
    """The public halves of the present key, and of former ones that are kept."""
    return {public(ours), *(key for key, each in _former(ours).items() if each.seed)}


def drop_former(ours: Settings, oldest_move: float | None) -> None:
    """Forget the former keys that nothing can need: no move that was planned with one is under way, or may begin.

    Args:
        ours: settings.
        oldest_move: since when the oldest move is under way here, in seconds since 1970; None: there is none.
    """
    needed_since = min(time.time(), oldest_move or float("inf")) - KEPT.total_seconds()
    useless = {key: each for key, each in _former(ours).items() if each.seed and each.until < needed_since}
    if useless:
        with edited(ours.directory / FORMER) as former:
            former |= {key: each.model_copy(update={"seed": None}).json_object() for key, each in useless.items()}


def seal(ours: Settings, for_key: str, document: dict[str, Any], *, by: str | None = None) -> str:
    """What only the host with this public key can read.

    Args:
        ours: settings.
        for_key: public half of the other's.
        document: what it is to read.
        by: public half of the key of ours by which it knows this host; None: the present one.

    Raises:
        Fatal: this host does not have that key any more.
    """
    return _text(_box(ours, by, for_key).encrypt(json.dumps(document).encode()))


def unseal(ours: Settings, from_key: str, sealed: str, *, by: str | None = None) -> dict[str, Any]:
    """What the host with this public key sealed for this one; `by` as for `seal`.

    Raises:
        NotFromThatHost: it did not, or it was changed on its way.
        Fatal: this host does not have that key any more.
    """
    try:
        document: dict[str, Any] = json.loads(_box(ours, by, from_key).decrypt(b64decode(sealed)))
    except (CryptoError, ValueError) as error:
        raise NotFromThatHost("what was sealed for this host was not sealed by the other host's key") from error
    return document


def sign(ours: Settings, message: bytes, *, by: str | None = None) -> str:
    """The signature of this host; `by` and errors as for `seal`."""
    return _text(_own(ours, by).sign(message).signature)


def verify(from_key: str, message: bytes, signature: str) -> None:
    """Check the signature of the host with this public key.

    Raises:
        NotFromThatHost: it is not that host's, or the message was changed.
    """
    try:
        VerifyKey(b64decode(from_key)).verify(message, b64decode(signature))
    except (CryptoError, ValueError) as error:
        raise NotFromThatHost("the signature was not made by that host's key") from error


def _box(ours: Settings, mine: str | None, other: str) -> Box:
    their_half = VerifyKey(b64decode(other)).to_curve25519_public_key()
    return Box(_own(ours, mine).to_curve25519_private_key(), their_half)


def _own(ours: Settings, wanted: str | None) -> SigningKey:
    """The present key, or a former one that is kept, by its public half."""
    present = _key(ours)
    if wanted in {None, _text(bytes(present.verify_key))}:
        return present
    kept = _former(ours).get(str(wanted))
    if kept is None or kept.seed is None:
        raise Fatal(f"{ours.host} does not have the key any more with which this move was planned: submit it anew")
    return SigningKey(b64decode(kept.seed))


def _former(ours: Settings) -> dict[str, FormerKey]:
    return {key: FormerKey.model_validate(each) for key, each in content(ours.directory / FORMER).items()}


def _key(ours: Settings) -> SigningKey:
    path = ours.directory / NAME
    try:
        return SigningKey(b64decode(path.read_text()))
    except FileNotFoundError:
        return _make(path)


def _make(path: Path) -> SigningKey:
    """Readable by nobody else from its first instant; of two who make one at once the first counts."""
    made = SigningKey.generate()
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(files.private(draft, os.O_WRONLY | os.O_TRUNC), "w") as file:
        file.write(_text(bytes(made)))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        made = SigningKey(b64decode(path.read_text()))
    draft.unlink()
    return made


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
