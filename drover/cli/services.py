"""`drover worker` and `drover controller`: the standard Celery worker, with the right options."""

import os
import sys
from typing import Annotated, Any

import typer
from kombu.exceptions import OperationalError as BrokerUnreachable
from redis.exceptions import RedisError
from sqlalchemy import func, select

from drover.broker.app import CONTROL_QUEUE, app, host_queue
from drover.cli import completion, output
from drover.cli.errors import broker_refuses
from drover.cli.options import AsJson
from drover.errors import PreconditionFailed
from drover.settings import settings
from models.database import patiently, transaction
from models.host import Host

CONTROLLER_THREADS = 4

LogLevel = Annotated[str, typer.Option("--loglevel", metavar="LEVEL", help="debug, info, warning, error or critical.")]


def worker(
    host: Annotated[
        str,
        typer.Option(
            help="The hypervisor that this worker serves.",
            envvar="DROVER_HOST",
            autocompletion=completion.hosts,
            show_default=False,
        ),
    ],
    loglevel: LogLevel = "info",
    as_json: AsJson = False,
) -> None:
    """Serve one hypervisor: run on every host that guests live on, once.

    It does what `celery -A drover.broker.app worker -Q drover.HOST` does. Settings come from the environment
    (DROVER_*).
    """
    if host_queue(host) == CONTROL_QUEUE or "," in host:
        raise PreconditionFailed(f"{host!r} cannot be a host's name: choose another one")
    os.environ["DROVER_HOST"] = host
    _become("-Q", host_queue(host), "-n", f"{host}@%h", loglevel=loglevel, as_json=as_json)


def controller(
    metrics: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS:PORT",
            help="Answer Prometheus there, e.g. 10.0.0.5:9464; without it nowhere.",
            envvar="DROVER_METRICS_ADDRESS",
            show_default=False,
        ),
    ] = "",
    loglevel: LogLevel = "info",
    as_json: AsJson = False,
) -> None:
    """See to it that jobs go on, whatever dies: run at least one, several are fine.

    It does what `celery -A drover.broker.app worker -Q drover.control` does; the one that holds a lock acts.
    """
    from drover.metrics import check_address  # costs every other command a fifth of a second

    if metrics:
        check_address(metrics)
    os.environ["DROVER_METRICS_ADDRESS"] = metrics
    os.environ.pop("DROVER_HOST", None)  # a control node is no hypervisor
    _become(
        "-Q", CONTROL_QUEUE, "-n", "controller@%h", "-c", str(CONTROLLER_THREADS), loglevel=loglevel, as_json=as_json
    )


def _become(*options: str, loglevel: str, as_json: bool) -> None:
    """Replace this process by Celery's, so that signals and supervisors reach it."""
    settings.cache_clear()
    _check_database()
    _check_broker()
    argv = [sys.executable, "-m", "workers", *options]
    argv += ["--without-gossip", "--without-mingle", f"--loglevel={loglevel}"]
    if as_json:
        output.emit({"pid": os.getpid(), "argv": argv})
        sys.stdout.flush()
        os.dup2(sys.stderr.fileno(), 1)  # Celery greets on stdout
    os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted


def _check_database() -> None:
    """One sentence now instead of Celery's traceback later. A database that is away is waited for, as later on."""

    def look() -> None:
        with transaction() as session:
            session.scalar(select(func.count()).select_from(Host))

    patiently(look, output.note)


def _check_broker() -> None:
    """Celery would try for ever, also where only an operator can help: a wrong password or certificate.

    A Redis that is away is waited for, as later on: a hypervisor may start before its control node.
    """
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            channel: Any = connection.channel()
            channel.client.ping()
    except (RedisError, BrokerUnreachable) as error:
        if broker_refuses(error):
            raise
        output.note(f"Redis does not answer yet ({error}): waiting for it")
