"""Signs a submission by task name with a token of `drover token add`. The token stays here: others see messages.

Nothing of Drover is imported; PyNaCl is needed, or whatever else makes Ed25519 signatures.
"""

import hashlib
import json
import time
from base64 import b64encode
from typing import Any

from nacl.signing import SigningKey

PURPOSE = b"drover submission\n"


def signed(task: str, arguments: dict[str, Any], *, token: int, secret: str) -> dict[str, Any]:
    """The arguments of a task with the signature in them. It counts for an hour: sign again what is sent again.

    Args:
        task: like `drover.job.submit`.
        arguments: plain JSON, which the signature is about as a whole.
        token: its number, as `drover token list` shows it.
        secret: its text, which `drover token add` has shown once.
    """
    at = int(time.time())
    text = json.dumps([task, token, at, arguments], sort_keys=True, separators=(",", ":"))
    key = SigningKey(hashlib.sha256(PURPOSE + secret.encode()).digest())
    signature = b64encode(key.sign(PURPOSE + text.encode()).signature).decode()
    return arguments | {"signature": {"token": token, "at": at, "ed25519": signature}}
