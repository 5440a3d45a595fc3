"""Starts a service: checks what it needs, then this process becomes Celery's worker."""

import logging
import os
import sys
from pathlib import Path

from kombu.exceptions import OperationalError as BrokerUnreachable
from redis.exceptions import RedisError
from sqlalchemy import func, select

from drover import listening, passwords
from drover.broker import health
from drover.cli import output
from drover.cli.errors import broker_refuses
from drover.errors import PreconditionFailed
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
    _say_where("the console", address, as_json=as_json)
    serving.serve(address, behind_proxy=behind_proxy, actions=actions, people_by=people_by)


def _say_where(what: str, address: str, *, as_json: bool) -> None:
    if as_json:
        output.emit({"pid": os.getpid(), "url": f"http://{address}/"})
        sys.stdout.flush()
    else:
        output.note(f"{what} answers at http://{address}/")


OF_FLOWER = "FLOWER_BASIC_AUTH"
"""Flower's own variable for who may look."""


def serve_flower(address: str, events: Path | None, *, as_json: bool) -> None:
    """Serve Flower until this process is told to stop.

    Raises:
        PreconditionFailed: nothing can or should listen at that address.
    """
    from drover.broker import flower

    settings.cache_clear()
    _check_flower(address)
    _check_broker()
    _say_where("Flower", address, as_json=as_json)
    flower.serve(address, events)


def _check_flower(address: str) -> None:
    file, named = settings().flower_password_file, os.environ.get(OF_FLOWER)
    if file is not None and named:
        raise PreconditionFailed(
            f"DROVER_FLOWER_PASSWORD_FILE and {OF_FLOWER} both say who may look: unset {OF_FLOWER}"
        )
    if file is not None:
        _check_readable(file)
    listening.check(address, "no Flower can be served", "--listen", "5555")
    if not (file or named or listening.only_here(listening.split(address)[0])):
        raise PreconditionFailed(
            f"{address} can be reached from elsewhere, and Flower would ask nobody who they are: set "
            "DROVER_FLOWER_PASSWORD_FILE to a file with USER:PASSWORD, or listen at 127.0.0.1:5555"
        )


def _check_readable(file: Path) -> None:
    try:
        listed = passwords.listed(file)
    except OSError as error:
        raise PreconditionFailed(f"DROVER_FLOWER_PASSWORD_FILE cannot be read: {error.strerror or error}") from error
    if not all(":" in one.strip(":") for one in listed):
        raise PreconditionFailed(f"DROVER_FLOWER_PASSWORD_FILE is {file}: USER:PASSWORD is wanted, one a line")


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
