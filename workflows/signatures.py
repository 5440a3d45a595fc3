"""Submissions by task name that are signed with a token. The token stays with its holder: a message is seen in Flower
and lies in Redis.

Holder and database have the halves of one Ed25519 key pair. The private half follows from the token's text, the public
one stands in the token's row: who reads the database can sign nothing. `examples/celery/signing.py` signs; what it does
is described in docs/reference/cli.md.
"""

import hashlib
import json
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey
from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from drover.errors import NotProven
from models.contracts import Part

FIELD = "signature"
PURPOSE = b"drover submission\n"
LASTS = timedelta(hours=1)
"""A message waits as long as no controller runs. One that was refused could be sent again by others until then."""
AHEAD = timedelta(minutes=5)
"""Clocks differ."""


class Signature(Part):
    """What a sender adds to the arguments of a task."""

    model_config = ConfigDict(extra="forbid")

    token: int = Field(ge=1, lt=1 << 63)
    """The token's number."""
    at: int = Field(ge=0, lt=1 << 40)
    """When it was signed, in seconds since 1970."""
    ed25519: Annotated[str, StringConstraints(min_length=88, max_length=88)]
    """In base64."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self | None:
        """That of a submission; None: nobody has signed it.

        Raises:
            NotProven: it is none, or too old.
        """
        if FIELD not in said:
            return None
        try:
            signature = cls.model_validate(said[FIELD])
        except ValidationError as error:
            raise NotProven(
                "signature is an object with token, at and ed25519, as examples/celery/signing.py makes it"
            ) from error
        signature._check_time(datetime.now(UTC))
        return signature

    def _check_time(self, now: datetime) -> None:
        age = now - datetime.fromtimestamp(self.at, UTC)
        if not -AHEAD <= age <= LASTS:
            lasts = f"{LASTS.total_seconds() / 60:.0f} minutes"
            raise NotProven(
                f"it was signed at {datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M:%S} UTC and is read at "
                f"{now:%H:%M:%S}; a signature counts for {lasts}: sign it anew and send it again"
            )

    def message(self, task: str, said: Mapping[str, Any]) -> bytes:
        """What was signed: all arguments but the signature, for which task, by which token and when.

        Raises:
            NotProven: an argument cannot have been signed.
        """
        arguments = {name: value for name, value in said.items() if name != FIELD}
        try:
            text = json.dumps([task, self.token, self.at, arguments], sort_keys=True, separators=(",", ":"))
        except TypeError as error:  # Celery can send dates and the like as well
            raise NotProven(f"a value in it is no plain JSON, so the signature says nothing of it: {error}") from error
        return PURPOSE + text.encode()

    def is_of(self, public: bytes | None, message: bytes) -> bool:
        """Whoever has the other half of that key has signed this message."""
        if public is None:
            return False
        try:
            VerifyKey(public).verify(message, b64decode(self.ed25519, validate=True))
        except (CryptoError, ValueError):
            return False
        return True


def public_half(token: str) -> bytes:
    """Of the key that a token's holder signs with."""
    return bytes(SigningKey(hashlib.sha256(PURPOSE + token.encode()).digest()).verify_key)
