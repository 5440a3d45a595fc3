"""Celery's consumer of a worker or controller, with two promises more: no outage and no message ends the process."""

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import consumer as celery

from workers import envelope

log = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Between two attempts to reach Redis."""
SAME_OUTAGE_S = 30.0
"""Failures closer together than that are one outage: one line in the log."""


class OneLine(logging.Filter):
    """Of what Celery says about a broker that is away, the first line of each outage."""

    SAID = ("consumer: Cannot connect to", "%s (%r)", "Frequent restarts detected")

    def __init__(self) -> None:
        super().__init__()
        self.last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Say it in our words, or not at all."""
        if not str(record.msg).startswith(self.SAID):
            return True
        begins = time.monotonic() > self.last + SAME_OUTAGE_S
        self.last = time.monotonic()
        error = next((part for part in _parts(record) if isinstance(part, BaseException)), "it does not answer")
        record.msg, record.args, record.exc_info = (
            "Redis is away (%s): waiting for it; what runs goes on",
            (error,),
            None,
        )
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return begins


def _parts(record: logging.LogRecord) -> tuple[Any, ...]:
    return record.args if isinstance(record.args, tuple) else (record.args,)


logging.getLogger(celery.__name__).addFilter(OneLine())


class Consumer(celery.Consumer):
    """Set as `worker_consumer`."""

    connection_errors: tuple[type[Exception], ...]

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
        super().on_connection_error_before_connected(exc)
        time.sleep(PAUSE_S)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Likewise."""
        super().on_connection_error_after_connected(exc)
        time.sleep(PAUSE_S)

    def create_task_handler(self, *arguments: Any, **named: Any) -> Callable[[Any], Any]:
        """Celery's, but that an error about one message is about that message."""
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
        """It is in our hands by now: say that we are done with it, so that it never comes back."""
        raw = message.body if isinstance(message.body, bytes) else str(message.body).encode()
        queue = (message.delivery_info or {}).get("routing_key")
        log.error("dropped a message from %s: %s: %s", queue, why, envelope.excerpt(raw))
        message.reject_log_error(log, self.connection_errors)
