"""What guests, hosts and groups may be called: nothing that means more than itself in a path, a shell or on a terminal.

Postgres checks the same pattern, see revision 0012.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from drover.errors import PreconditionFailed

PATTERN = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}"
ALLOWED = "1 to 63 letters (A to Z, a to z), digits, dots, dashes and underscores, and begins with no dot or dash"
CONTROL = "control"
"""Queues are named after hosts, and this one is everybody's."""
LONGEST_SHOWN = 80


def name(text: str) -> str:
    """A guest or a group may be called that.

    Raises:
        ValueError: it may not; what is allowed.
    """
    if re.fullmatch(PATTERN, text) is None:
        raise ValueError(f"a name has {ALLOWED}")
    return text


def host_name(text: str) -> str:
    """Likewise a host."""
    if re.fullmatch(PATTERN, text) is None or text == CONTROL:
        raise ValueError(f"a host's name has {ALLOWED}, and is not `{CONTROL}`")
    return text


OptionalName = Annotated[str | None, Field(pattern=f"^{PATTERN}$")]
GuestName = Annotated[str, AfterValidator(name)]
HostName = Annotated[str, AfterValidator(host_name)]


def check(text: str, what: str) -> None:
    """Refuse what `what`, such as `a guest`, cannot be called.

    Raises:
        PreconditionFailed: one sentence says what is allowed.
    """
    try:
        host_name(text) if what == "a host" else name(text)
    except ValueError as error:
        raise PreconditionFailed(f"{what} cannot be called {text[:LONGEST_SHOWN]!r}: {error}") from None
