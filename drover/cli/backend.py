"""By what commands do their work: the database, or the HTTP API where DROVER_API_URL names one."""

import os

from drover import extras
from drover.operations import ByDatabase, Operations
from drover.settings import API_TOKEN, API_URL


def by_api() -> bool:
    """Whether it is the API."""
    return bool(os.environ.get(API_URL))


def operations() -> Operations:
    """What does it.

    Raises:
        PreconditionFailed: the API's address or token cannot be used.
    """
    if not by_api():
        return ByDatabase()
    extras.require("client", f"{API_URL}, which is set,")
    from drover.client import ByApi

    return ByApi(os.environ[API_URL], os.environ.get(API_TOKEN, ""))
