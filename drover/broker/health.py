"""Whether messages can be published now."""

from collections.abc import Iterable
from typing import Any

from drover.broker.app import app

PROBE = "drover.probe"
"""The name of a list in Redis that never exists."""


def ping() -> None:
    """Prove that it answers and accepts this process; a hypervisor's user may do no more besides its own work.

    Raises:
        OperationalError: of kombu; it cannot be reached.
        RedisError: it refuses this process.
    """
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        channel: Any = connection.channel()
        channel.client.ping()


def check_broker() -> None:
    """Prove that messages can be published. Pushing to a list that does not exist changes nothing, but a replica, a
    Redis that is loading and one that is full refuse it as they would refuse a message.

    Raises:
        OperationalError: of kombu; it cannot be reached.
        RedisError: it takes no messages now.
    """
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        channel: Any = connection.channel()
        channel.client.lpushx(PROBE, "")


def lengths(queues: Iterable[str]) -> dict[str, int]:
    """How many messages wait in each queue. Errors as for `ping`."""
    names = list(queues)
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)  # else it tries for minutes
        channel: Any = connection.channel()
        pipe = channel.client.pipeline(transaction=False)
        for name in names:
            pipe.llen(name)
        found: list[int] = pipe.execute()
        return dict(zip(names, found, strict=True))


def information() -> dict[str, Any]:
    """What Redis says of itself (`INFO`); a hypervisor's user may not ask. Errors as for `ping`."""
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        channel: Any = connection.channel()
        told: dict[str, Any] = channel.client.info()
        return told
