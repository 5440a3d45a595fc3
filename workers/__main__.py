"""`python -m workers -Q drover.HOST`: what `celery -A drover.broker.app worker` does, with half the memory.

The `celery` command loads all others first, Flower's web server and an interactive shell among them, and keeps them.
"""

from celery.bin.base import CLIContext
from celery.bin.worker import worker

from drover.broker.app import app


def main() -> None:
    """Celery's own worker, with its own options."""
    worker.main(prog_name="workers", obj=CLIContext(app=app, no_color=False, workdir=None))


if __name__ == "__main__":
    main()
