"""The key by which other hosts know this one: one seed in the worker's folder, made at its first start.

It signs what this host says. The private half never leaves the folder.
"""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from nacl.exceptions import BadSignatureError
from nacl.exceptions import ValueError as MalformedKey
from nacl.signing import SigningKey, VerifyKey

from drover.errors import PreconditionFailed
from workers.images.manifest import sync_folder

NAME = "host.key"
SEED_BYTES = 32


class HostKey:
    """The key pair of one host."""

    def __init__(self, seed: bytes) -> None:
        self._signing = SigningKey(seed)

    @property
    def public(self) -> bytes:
        """What other hosts know of it: 32 bytes."""
        return bytes(self._signing.verify_key)

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return self._signing.sign(message).signature


def own(folder: Path) -> HostKey:
    """The key in this worker's folder; made if there is none."""
    path = folder / NAME
    if not exists(folder):
        _make(path)
    return _read(path, path.stat().st_mtime_ns)


def exists(folder: Path) -> bool:
    """A worker of a version that signs has started here before."""
    return (folder / NAME).exists()


@cache
def _read(path: Path, _mtime_ns: int) -> HostKey:
    return HostKey(path.read_bytes())


def _make(path: Path) -> None:
    """Whole or not at all, and readable for its user alone from its first instant; the first of two makers wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{NAME}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(SEED_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
    sync_folder(path.parent)


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature.

    Raises:
        PreconditionFailed: whoever holds this key did not sign this message.
    """
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, MalformedKey) as error:
        raise PreconditionFailed("its signature is wrong") from error
