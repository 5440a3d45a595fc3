"""Becoming the service: what it needs is looked at, then Celery's worker takes this process over."""

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
from workflows import fleet_limits

log = logging.getLogger(__name__)


def check_metrics_address(address: str) -> None:
    """Say at once that no metrics can be served there.

    Raises:
        PreconditionFailed: the address is none, or taken, or what serves metrics is not installed.
    """
    from drover.metrics import check_address

    check_address(address)


def become(*options: str, as_json: bool) -> None:
    """Replace this process by Celery's, so that signals and supervisors reach it."""
    settings.cache_clear()
    _check_database()
    for warning in fleet_limits.warnings(os.environ, settings()):
        log.warning("%s", warning)
    _check_broker()
    argv = [sys.executable, "-m", "workers", *options]
    argv += ["--without-gossip", "--without-mingle"]
    if as_json:
        output.emit({"pid": os.getpid(), "argv": argv})
        sys.stdout.flush()
    os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted


def _check_database() -> None:
    """One sentence now instead of Celery's traceback later. A database that is away is waited for, as later on."""

    def look() -> None:
        with transaction() as session:
            session.scalar(select(func.count()).select_from(Host))

    patiently(look, log.warning)


def _check_broker() -> None:
    """Celery would try for ever, also where only an operator can help: a wrong password or certificate.

    A Redis that is away is waited for, as later on: a hypervisor may start before its control node.
    """
    try:
        health.ping()
    except (RedisError, BrokerUnreachable) as error:
        if broker_refuses(error):
            raise
        log.warning("Redis does not answer yet (%s): waiting for it; the guests are not affected", error)
