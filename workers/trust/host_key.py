"""The key pair of this host: made when its worker first starts, in the worker's folder, readable by its owner only.

One Ed25519 seed. The public half stands in the host's row, see `workflows.host_keys`. What one host seals for another
only that one can open, and it knows from whom it is (libsodium's `Box`, the keys turned into X25519).
"""

import json
import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.public import Box
from nacl.signing import SigningKey, VerifyKey

from drover.errors import DroverError
from drover.settings import Settings
from workers import files


class NotFromThatHost(DroverError):
    """What was sealed or signed is not from the host that it should be from, or is not for this one."""


NAME = "host.key"


def exists(ours: Settings) -> bool:
    """A worker of a version that has keys has started here before."""
    return (ours.directory / NAME).exists()


def public(ours: Settings) -> str:
    """The public half, as it stands in the host's row."""
    return _text(bytes(_key(ours).verify_key))


def seal(ours: Settings, for_key: str, document: dict[str, Any]) -> str:
    """What only the host with this public key can read."""
    return _text(_box(ours, for_key).encrypt(json.dumps(document).encode()))


def unseal(ours: Settings, from_key: str, sealed: str) -> dict[str, Any]:
    """What the host with this public key sealed for this one.

    Raises:
        NotFromThatHost: it did not, or it was changed on its way.
    """
    try:
        document: dict[str, Any] = json.loads(_box(ours, from_key).decrypt(b64decode(sealed)))
    except (CryptoError, ValueError) as error:
        raise NotFromThatHost("what was sealed for this host is not from the host that it should be from") from error
    return document


def sign(ours: Settings, message: bytes) -> str:
    """The signature of this host."""
    return _text(_key(ours).sign(message).signature)


def verify(from_key: str, message: bytes, signature: str) -> None:
    """Check the signature of the host with this public key.

    Raises:
        NotFromThatHost: it is not that host's, or the message was changed.
    """
    try:
        VerifyKey(b64decode(from_key)).verify(message, b64decode(signature))
    except (CryptoError, ValueError) as error:
        raise NotFromThatHost("the signature is not of the host that it should be of") from error


def _box(ours: Settings, other: str) -> Box:
    return Box(_key(ours).to_curve25519_private_key(), VerifyKey(b64decode(other)).to_curve25519_public_key())


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
