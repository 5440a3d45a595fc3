"""Starts a service: checks what it needs, then this process becomes Celery's worker."""

import logging
import os
import sys

from kombu.exceptions import OperationalError as BrokerUnreachable
from redis.exceptions import RedisError
from sqlalchemy import func, select

from drover.broker import health
from drover.cli import output
from drover.cli.errors import broker_refuses
from drover.settings import settings
from models.database import patiently, transaction
from models.host import Host
from workers import celery_worker
from workflows import fleet_limits

log = logging.getLogger(__name__)


def check_metrics_address(address: str) -> None:
    """Refuse at once an address where no metrics can be served.

    Raises:
        PreconditionFailed: the address is invalid or taken, or the library that serves metrics is not installed.
    """
    from drover.metrics import check_address

    check_address(address)


def become(*options: str, as_json: bool) -> None:
    """Run Celery's worker in this process until it is told to stop."""
    settings.cache_clear()
    _check_database()
    for warning in fleet_limits.warnings(os.environ, settings()):
        log.warning("%s", warning)
    _check_broker()
    if as_json:
        output.emit({"pid": os.getpid(), "options": options})
        sys.stdout.flush()
    celery_worker.main(options)


def serve_console(address: str, *, behind_proxy: bool, actions: bool, people_by: str | None, as_json: bool) -> None:
    """Serve the console until this process is told to stop.

    Raises:
        PreconditionFailed: nothing can or should listen at that address.
    """
    from drover.console import serving

    settings.cache_clear()
    serving.check(address, behind_proxy=behind_proxy, people_by=people_by)
    _check_database()
    if as_json:
        output.emit({"pid": os.getpid(), "url": f"http://{address}/"})
        sys.stdout.flush()
    else:
        output.note(f"the console answers at http://{address}/")
    serving.serve(address, behind_proxy=behind_proxy, actions=actions, people_by=people_by)


def _check_database() -> None:
    """Fail with one sentence instead of Celery's traceback later. An unreachable database is waited for."""

    def look() -> None:
        with transaction() as session:
            session.scalar(select(func.count()).select_from(Host))

    patiently(look, log.warning)


def _check_broker() -> None:
    """Celery would try without end, also with a wrong password or certificate, which only an operator can correct.

    An unreachable Redis is waited for, as later on: a hypervisor may start before its control node.
    """
    try:
        health.ping()
    except (RedisError, BrokerUnreachable) as error:
        if broker_refuses(error):
            raise
        log.warning("Redis does not answer yet (%s): waiting for it; the guests are not affected", error)
