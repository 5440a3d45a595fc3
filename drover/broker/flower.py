"""Celery's Flower, as operators look at Drover by it. No secret stands in its arguments or environment.

By itself it takes who may look from an argument or a variable, and asks Redis how much waits by the URL's password.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flower import options as _defined  # noqa: F401 - with it tornado knows Flower's options
from flower.views import BaseHandler
from tornado.options import options

from drover import listening, passwords
from drover.broker import health
from drover.broker.app import app
from drover.settings import settings

log = logging.getLogger(__name__)

COLUMNS = "name,args,kwargs,state,received,runtime,worker"
"""`received` among them has the newest tasks come first."""
SAVED_EVERY_MS = 60_000


class Listed(list[str]):
    """Who may look, as USER:PASSWORD, one a line of a file that is read for each request."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def __bool__(self) -> bool:
        return True  # else Flower asks nobody who it is

    def __iter__(self) -> Iterator[str]:
        try:
            return iter(passwords.listed(self.file))
        except OSError as error:
            log.warning("Flower lets nobody in, for its users cannot be read: %s", error)
            return iter(())


class Broker:
    """How much waits, by a connection like all others of Drover."""

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """As Flower shows it."""
        found = await asyncio.to_thread(health.lengths, names)
        return [{"name": name, "messages": length} for name, length in found.items()]


def serve(address: str, events: Path | None) -> None:
    """Answer browsers until it is told to stop.

    Args:
        address: where it listens.
        events: file in which it keeps what it has seen.
    """
    file = settings().flower_password_file
    if file is not None:
        options.basic_auth = Listed(file)
    BaseHandler.get_broker = lambda self: Broker()
    host, port = listening.split(address)
    kept = () if events is None else ("--persistent=True", f"--db={events}", f"--state_save_interval={SAVED_EVERY_MS}")
    nothing_else = "--conf=/dev/null"  # not whatever `flowerconfig.py` lies in this folder
    looks = (f"--address={host}", f"--port={port}", "--read_only=True", f"--tasks_columns={COLUMNS}")
    app.start(["flower", nothing_else, *looks, *kept])
