"""How the API tells what is wrong."""

from typing import Any

from pydantic import BaseModel

from models.base import Document


class Fault(BaseModel):
    """What is wrong, as the command line has it."""

    code: str
    message: str
    checks: list[Document] | None = None
    """What is against moving a guest, each by itself; only where that is why."""


class Failure(BaseModel):
    """The answer to what is not there, not understood, not allowed, or cannot be answered now."""

    error: Fault


CODES = {
    400: "not_understood",
    401: "not_known",
    403: "not_allowed",
    404: "not_found",
    405: "not_allowed",
    409: "refused",
    413: "too_large",
    429: "too_many",
    503: "unavailable",
}
"""{status: stable code}."""

PREFIX = "/api/v1"
ALWAYS: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "A value is not allowed."},
    401: {"model": Failure, "description": "A token is needed, or the one that was given is not valid."},
    503: {"model": Failure, "description": "The database, the broker or a host does not answer."},
}
"""What every path may answer."""
