"""That a host has a new key, signed with the one before: whoever believed that one believes the new one.

What a host shows of this is public. It proves nothing but that who had the former key names another.
"""

import json
from base64 import b64decode
from collections.abc import Iterable

from models.contracts import Part

PURPOSE = b"drover: a host's next key, 1\n"
"""A signature for anything else is none for this."""


class Succession(Part):
    """One change of a host's key."""

    host: str
    former: str
    key: str
    """The public halves, as `workers.trust.host_key` writes them, like the signature."""
    signature: str
    """By the former key, of `signed`."""


def signed(host: str, former: str, key: str) -> bytes:
    """What the former key signs."""
    return PURPOSE + json.dumps([host, former, key]).encode()


def leads(known: str, key: str, host: str, successions: Iterable[Succession]) -> bool:
    """Whether a host that was known by one key has this one now, as its former keys say one after the other."""
    following = {each.former: each for each in successions if each.host == host and _is_signed(each)}
    for _ in range(len(following) + 1):
        if known == key:
            return True
        if known not in following:
            return False
        known = following[known].key
    return False


def _is_signed(told: Succession) -> bool:
    from nacl.exceptions import CryptoError  # only hosts whose keys have changed need it
    from nacl.signing import VerifyKey

    try:
        message = signed(told.host, told.former, told.key)
        VerifyKey(b64decode(told.former)).verify(message, b64decode(told.signature))
    except (CryptoError, ValueError, TypeError):
        return False
    return True
