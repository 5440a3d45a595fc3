"""Serves the console at an address."""

from urllib.parse import urlsplit

import uvicorn

from drover import listening
from drover.console.app import make
from drover.errors import PreconditionFailed
from drover.settings import settings

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
MOST_CONNECTIONS = 500


def check(address: str, *, behind_proxy: bool, people_by: str | None = None) -> None:
    """Refuse an address at which the console cannot or should not listen.

    Raises:
        PreconditionFailed: nothing can listen there, or it is not loopback and nobody checks who asks.
    """
    if people_by and settings().oidc_issuer:
        raise PreconditionFailed("--people-by and DROVER_OIDC_ISSUER both say who somebody is: use one of them")
    listening.check(address, "no console can be served", "--listen", "9465")
    host, _ = listening.split(address)
    if not behind_proxy and not listening.only_here(host):
        raise PreconditionFailed(
            f"{address} can be reached from elsewhere, and the console asks nobody who they are: listen at "
            "127.0.0.1:9465 and let a reverse proxy that does ask pass requests on, or add --behind-proxy if one "
            "already stands before this address and nothing else reaches it"
        )


def serve(address: str, *, behind_proxy: bool, actions: bool, people_by: str | None) -> None:
    """Answer until it is told to stop."""
    host, port = listening.split(address)
    ours = settings()
    public = urlsplit(ours.console_url).hostname if ours.oidc_issuer else None
    names = [public] if public else ["*"] if behind_proxy else [*LOCAL_NAMES, host]
    app = make(*names, actions=actions, people_by=people_by, ours=ours)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
