"""What `celery -A drover.broker.app worker -Q drover.HOST` does, with half the memory: for `drover worker`.

The `celery` command loads all others first, Flower's web server and an interactive shell among them, and keeps them.
"""

import logging
import sys
from collections.abc import Sequence

from celery.bin.base import CLIContext
from celery.bin.worker import worker

from drover.broker.app import app

log = logging.getLogger("workers")


def main(options: Sequence[str]) -> None:
    """Celery's own worker, with its own options, without its banner: all that it writes are log lines."""
    try:
        worker.main(options, prog_name="workers", obj=CLIContext(app=app, no_color=False, workdir=None, quiet=True))
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        log.critical("%s", end.code)
        sys.exit(1)
