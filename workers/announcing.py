"""What Flower shows of a step: how far it has come, and what it waits for, by the sentence of all other views.

Flower shows only fields that it has itself, and takes their values from events. A thread sends them, because a Redis
that is frozen must hold up no step. Whatever goes wrong here is not told to the step either.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from celery import Task

from drover import logs
from drover.escaping import escaped
from workflows import wait_reasons
from workflows.migration.claims import Claim

log = logging.getLogger(__name__)

LAST_S = 1.0
"""So long a step that ends waits until that is told: what comes behind its end counts no more."""

_sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flower")


class Announcer:
    """Tells it of one task. To be made in the thread that runs it; used in any."""

    def __init__(self, task: Task[Any, Any]) -> None:
        self.task, request = task, task.request  # Celery knows the request in that thread alone
        self.uuid, self.worker, self.place = request.id, request.hostname, request.get("kwargsrepr")
        self.percent = 0
        self.waits = False
        self.sending: Future[None] | None = None

    def tell(self, claim: Claim, remark: str | None, percent: int) -> None:
        """The step is at work. Left out while the last one has not been sent.

        Args:
            claim: the step's.
            remark: what it has said of what holds it up.
            percent: how far it has come.
        """
        if self.sending is not None and not self.sending.done():
            return
        with _harmless():
            why = wait_reasons.of_step(claim.job, claim.name, remark)
            self.percent, self.waits = percent, why is not None
            self._say(why)

    def end(self, how: str | None) -> None:
        """It is at work no more; `how` if another message goes on with it."""
        if not self.waits and how is None:
            return
        with _harmless():
            self._say(how)
            wait([self.sending] if self.sending else [], LAST_S)

    def _say(self, what: str | None) -> None:
        told = f"{self.percent} %, {what}" if what else f"{self.percent} %"
        shown = escaped(logs.masked(f"{self.place}: {told}"))
        self.sending = _sender.submit(self._send, shown, self.percent)

    def _send(self, shown: str, percent: int) -> None:
        with _harmless(), self.task.app.events.default_dispatcher(hostname=self.worker) as events:
            events.send("task-progress", uuid=self.uuid, retry=False, percent=percent, kwargs=shown)


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception:
        log.debug("Flower is not told how far the step is", exc_info=True)
