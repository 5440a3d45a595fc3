"""By what commands do their work: the database, or the HTTP API where DROVER_API_URL names one."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drover.client import ByApi
    from drover.operations import Operations

_connected: list["ByApi"] = []
"""What this command has opened."""


def by_api() -> bool:
    """Whether it is the API."""
    return bool(os.environ.get("DROVER_API_URL"))


def operations() -> "Operations":
    """What does it.

    Raises:
        PreconditionFailed: the API's address or token cannot be used.
    """
    if not by_api():
        from drover.operations import ByDatabase

        return ByDatabase()
    if not _connected:
        from drover import extras
        from drover.settings import API_TOKEN, API_URL

        extras.require("client", f"{API_URL}, which is set,")
        from drover.client import ByApi

        _connected.append(ByApi(os.environ[API_URL], os.environ.get(API_TOKEN, "")))
    return _connected[0]


def close() -> None:
    """The command has ended."""
    while _connected:
        _connected.pop().close()
