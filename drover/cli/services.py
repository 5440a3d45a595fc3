"""`drover worker` and `drover controller`: the standard Celery worker, with the right options. And what shows pages:
`drover console`, `drover flower`.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from drover import logs
from drover.cli import completion
from drover.cli.options import AsJson, examples

CONTROLLER_THREADS = 4

LogLevel = Annotated[
    logs.Level,
    typer.Option(
        "--log-level", "--loglevel", envvar=logs.LEVEL, case_sensitive=False, help="The least that is logged."
    ),
]
LogFormat = Annotated[
    logs.Format,
    typer.Option(
        "--log-format", envvar=logs.FORMAT, case_sensitive=False, help="For people, or one JSON object a line."
    ),
]

worker_app = typer.Typer(add_completion=False)
controller_app = typer.Typer(add_completion=False)
console_app = typer.Typer(add_completion=False)
flower_app = typer.Typer(add_completion=False)


@worker_app.command(epilog=examples("drover worker --host hv1", "DROVER_HOST=hv1 drover worker"))
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
    log_level: LogLevel = logs.Level.INFO,
    log_format: LogFormat = logs.Format.TEXT,
    as_json: AsJson = False,
) -> None:
    """Serve one hypervisor: run on every host that guests live on, once.

    It does what `celery -A drover.broker.app worker -Q drover.HOST` does. Settings come from the environment
    (DROVER_*).
    """
    from drover import names
    from drover.broker.app import host_queue
    from drover.cli.service_start import become

    names.check(host, "a host")
    os.environ["DROVER_HOST"] = host
    _choose_logs(host, log_level, log_format)
    become("-Q", host_queue(host), "-n", f"{host}@%h", as_json=as_json)


@controller_app.command(epilog=examples("drover controller", "drover controller --metrics 10.0.0.5:9464"))
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
    log_level: LogLevel = logs.Level.INFO,
    log_format: LogFormat = logs.Format.TEXT,
    as_json: AsJson = False,
) -> None:
    """Keep jobs going after any failure: run at least one, several are fine.

    It does what `celery -A drover.broker.app worker -Q drover.control` does; only the one that holds a lock is active.
    """
    from drover.broker.app import CONTROL_QUEUE
    from drover.cli.service_start import become, check_metrics_address
    from drover.extras import require

    require("controller", "a controller")
    if metrics:
        check_metrics_address(metrics)
    os.environ["DROVER_METRICS_ADDRESS"] = metrics
    os.environ.pop("DROVER_HOST", None)  # a control node is no hypervisor
    _choose_logs("control", log_level, log_format)
    become("-Q", CONTROL_QUEUE, "-n", "controller@%h", "-c", str(CONTROLLER_THREADS), as_json=as_json)


@console_app.command(epilog=examples("drover console", "drover console --listen 10.0.0.5:9465 --behind-proxy"))
def console(
    listen: Annotated[str, typer.Option(metavar="ADDRESS:PORT", help="Answer browsers there.")] = "127.0.0.1:9465",
    behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy",
            help="A reverse proxy that asks people who they are stands before this address, and nothing else reaches "
            "it. Needed for any address but loopback.",
        ),
    ] = False,
    actions: Annotated[
        bool, typer.Option("--actions", help="Let those who may do so change things: with a token of `drover token`.")
    ] = False,
    people_by: Annotated[
        str | None,
        typer.Option(
            metavar="HEADER",
            help="The reverse proxy says in this header who looks at a page, and lets nobody else set it: then pages "
            "have buttons for whom `drover token person` lists. Needs --behind-proxy and --actions.",
            show_default=False,
        ),
    ] = None,
    log_level: LogLevel = logs.Level.INFO,
    log_format: LogFormat = logs.Format.TEXT,
    as_json: AsJson = False,
) -> None:
    """Show the fleet, moves, drains and what waits for a person in a browser, from Postgres alone.

    Nothing can be changed through it without --actions.
    """
    from drover.cli.service_start import serve_console
    from drover.extras import require

    require("console", "the console")
    if people_by is not None and not (behind_proxy and actions):
        raise typer.BadParameter("--people-by needs --behind-proxy and --actions: anybody else could set that header")
    _choose_logs("console", log_level, log_format)
    serve_console(listen, behind_proxy=behind_proxy, actions=actions, people_by=people_by, as_json=as_json)


@flower_app.command(
    epilog=examples("drover flower", "drover flower --listen 10.0.0.5:5555 --events /var/lib/drover-flower/events")
)
def flower(
    listen: Annotated[str, typer.Option(metavar="ADDRESS:PORT", help="Answer browsers there.")] = "127.0.0.1:5555",
    events: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep what it has seen there.", show_default="lost when it ends"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the workers do in a browser, with Celery's Flower, which can change nothing.

    DROVER_FLOWER_PASSWORD_FILE names the file that says who may look; without it, it answers this machine alone.
    """
    from drover.cli.service_start import serve_flower
    from drover.extras import require

    require("flower", "Flower")
    os.environ.setdefault("DROVER_HOST", "flower")
    serve_flower(listen, events, as_json=as_json)


def _choose_logs(host: str, level: logs.Level, form: logs.Format) -> None:
    """For this process and for what it becomes."""
    os.environ |= {logs.LEVEL: level, logs.FORMAT: form}
    logs.configure(host)
