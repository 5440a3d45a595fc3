"""Metrics of the fleet for Prometheus, read from the database and the broker at each scrape.

So it does not matter which controller is scraped or when it was started, and no figure is lost with a process.
Counters never go backwards, not even over a restart: they count from the first job on, records of jobs are kept, and
only what cannot change any more is counted. If records are ever pruned, their sums must be kept.
The names, their meaning and what to do about them: docs/reference/metrics.md.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from drover import listening
from drover.metrics.collector import Fleet
from drover.settings import Settings


def check_address(address: str) -> None:
    """Refuse an address where no metrics can be served, when a controller is started with it.

    Raises:
        PreconditionFailed: `address` is no ADDRESS:PORT, or not this machine's, or taken.
    """
    listening.check(address, "no metrics can be served", "--metrics or DROVER_METRICS_ADDRESS", "9464")


def serve(ours: Settings, leading: Callable[[], bool]) -> None:
    """Answer `GET /metrics` at `ours.metrics_address`, from threads of this process."""
    host, port = listening.split(ours.metrics_address)
    registry = CollectorRegistry()
    registry.register(Fleet(ours, leading))
    ProcessCollector(registry=registry)
    start_http_server(port, host, registry)
