"""Celery's consumer of a worker or controller, which neither an outage nor any message can end."""

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import connection
from celery.worker.consumer import consumer as celery
from celery.worker.state import maybe_shutdown

from drover import logs
from drover.broker import envelope

log = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Between two attempts to reach Redis."""
SETTLED_S = 5.0
"""A Redis that is lost again sooner than that counts as the same outage."""


OF_CELERY_6 = "on connection loss cancels all currently executed tasks"
"""Part of a warning that Celery logs at each loss, about a setting that `drover.broker.app` has made."""


class Unsaid(logging.Filter):
    """Drops Celery's lines about each attempt to reach the broker: one of ours when it is lost, and one when it is
    found, are enough.
    """

    SAID = ("consumer: Cannot connect to", "Connected to", "%s (%r)", "Frequent restarts detected")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is logged."""
        return not str(record.msg).startswith(self.SAID)


for module in (celery, connection):
    logging.getLogger(module.__name__).addFilter(Unsaid())
logging.getLogger("py.warnings").addFilter(lambda record: OF_CELERY_6 not in record.getMessage())
for about_messages in (
    __name__,
    "drover.broker.transport",
    "workflows.tasks",
    "celery.app.trace",
    "celery.worker.request",
):
    logging.getLogger(about_messages).addFilter(logs.Seldom())


class Consumer(celery.Consumer):
    """Set as `worker_consumer`."""

    connection_errors: tuple[type[Exception], ...]
    ready_at: float | None = None
    """When Redis was last found again; None during an outage."""
    found_at: float | None = None
    """Likewise, but an outage does not take it back: a Redis that is lost and found every second is one line."""
    away_said = False

    def on_ready(self) -> None:
        """Redis can be reached and takes writes."""
        if self.found_at is None or time.monotonic() > self.found_at + SETTLED_S:
            assert self.connection is not None  # it is ready
            log.info("takes messages from %s", self.connection.as_uri())
        self.ready_at = self.found_at = time.monotonic()
        super().on_ready()

    def _away(self, error: BaseException) -> None:
        settled = self.ready_at is not None and time.monotonic() > self.ready_at + SETTLED_S
        if settled or not self.away_said:
            log.warning("Redis is unreachable (%s): waiting for it; running steps go on", error)
        self.ready_at, self.away_said = None, True

    def ensure_connected(self, conn: Any) -> Any:
        """A connection, however long that takes. Celery would ask again after up to half a minute."""
        pause = {"interval_start": PAUSE_S, "interval_step": 0, "interval_max": PAUSE_S}
        connected = conn.ensure_connection(lambda error, _: self._away(error), callback=maybe_shutdown, **pause)
        self.first_connection_attempt = False
        return connected

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """A connection to a Redis that takes what a worker writes; a replica, or one that is full, does not.

        Raises:
            ResponseError: it does not; Celery asks again.
        """
        connection = super().connection_for_read(heartbeat=heartbeat)
        try:
            channel: Any = connection.default_channel
            with channel.conn_or_acquire() as client, client.pipeline() as pipe:
                pipe.hset(channel.unacked_key, "probe", "[]").hdel(channel.unacked_key, "probe").execute()
        except Exception:
            connection.collect()
            raise
        return connection

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait a moment: each attempt at connecting may succeed at once and the next command fail."""
        self._away(exc)
        super().on_connection_error_before_connected(exc)
        time.sleep(PAUSE_S)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Likewise."""
        self._away(exc)
        super().on_connection_error_after_connected(exc)
        time.sleep(PAUSE_S)

    def create_task_handler(self, *arguments: Any, **named: Any) -> Callable[[Any], Any]:
        """Celery's handler, but an error caused by one message drops only that message."""
        handle = super().create_task_handler(*arguments, **named)

        def on_task_received(message: Any) -> Any:
            try:
                return handle(message)
            except self.connection_errors as error:
                if not isinstance(error, KeyError):  # which kombu counts as one of the connection
                    raise
                return self._drop(message, error)
            except Exception as error:
                return self._drop(message, error)

        return on_task_received

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Drop it."""
        self._drop(message, "it names no task")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop it."""
        self._drop(message, f"there is no task {message.headers['task']!a}")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop it."""
        self._drop(message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop it."""
        self._drop(message, exc)

    def _drop(self, message: Any, why: object) -> None:
        """Acknowledge it, because this process has received it already, so that it is not delivered again."""
        raw = message.body if isinstance(message.body, bytes) else str(message.body).encode()
        queue = (message.delivery_info or {}).get("routing_key")
        log.error("dropped a message from %s: %s: %s", queue, why, envelope.excerpt(raw))
        message.reject_log_error(log, self.connection_errors)
