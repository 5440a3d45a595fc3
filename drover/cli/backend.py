"""By what commands do their work: the database, or the HTTP API where DROVER_API_URL names one."""

import os
import pwd
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
    if by_api():
        return api()
    from drover.by_database import ByDatabase
    from workflows import permissions

    return ByDatabase(permissions.operator(user()))


def api() -> "ByApi":
    """The API. Errors as for `operations`."""
    if not _connected:
        from drover import extras
        from drover.settings import API_TOKEN, API_URL

        extras.require("client", f"{API_URL}, which is set,")
        from drover.client import ByApi

        _connected.append(ByApi(os.environ[API_URL], os.environ.get(API_TOKEN, "")))
    return _connected[0]


def user() -> str:
    """Who enters this: by the kernel, and behind `sudo` by what it says of who called it."""
    name = pwd.getpwuid(os.getuid()).pw_name
    return os.environ.get("SUDO_USER", name) if os.getuid() == 0 else name


def close() -> None:
    """The command has ended."""
    while _connected:
        _connected.pop().close()
