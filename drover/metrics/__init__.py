"""Metrics of the fleet for Prometheus, read from the database and the broker at each scrape.

So it does not matter which controller is scraped or when it was started, and no figure is lost with a process.
Counters never go backwards, not even over a restart: they count from the first job on, records of jobs are kept, and
only what cannot change any more is counted. If records are ever pruned, their sums must be kept.
The names, their meaning and what to do about them: docs/watching.md.
"""

import socket
from collections.abc import Callable

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from drover.errors import PreconditionFailed
from drover.metrics.collector import Fleet
from drover.settings import Settings


def check_address(address: str) -> None:
    """Refuse an address where no metrics can be served, when a controller is started with it.

    Raises:
        PreconditionFailed: `address` is no ADDRESS:PORT, or not this machine's, or taken.
    """
    host, port = _split(address)
    try:
        if not host or not 0 < int(port) < 1 << 16:
            raise ValueError("an address and a port between 1 and 65535 are wanted")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, int(port)), family=family).close()
    except (ValueError, OSError) as error:
        raise PreconditionFailed(
            f"no metrics can be served at {address!r} ({error}): set --metrics or DROVER_METRICS_ADDRESS to "
            "ADDRESS:PORT, e.g. 127.0.0.1:9464 or [::]:9464, with an address of this machine and a free port"
        ) from error


def serve(ours: Settings, leading: Callable[[], bool]) -> None:
    """Answer `GET /metrics` at `ours.metrics_address`, from threads of this process."""
    host, port = _split(ours.metrics_address)
    registry = CollectorRegistry()
    registry.register(Fleet(ours, leading))
    ProcessCollector(registry=registry)
    start_http_server(int(port), host, registry)


def _split(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return (host[1:-1] if host.startswith("[") else host), port
