"""Kombu's Redis transport, hardened: a Redis that fails over is waited for, and malformed messages are dropped.

Registered in kombu's table of URL schemes by `drover.broker.app`, so that all processes of Drover use it:
workers, controller, command line, Flower.
"""

import logging
from pathlib import Path
from typing import Any

from kombu.transport import redis as transport
from redis import CredentialProvider, Redis
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import LockNotOwnedError, ResponseError
from redis.lock import Lock

from drover import passwords
from drover.broker import envelope
from drover.broker.app import CONTROL_QUEUE
from drover.settings import settings

log = logging.getLogger(__name__)

AWAY = (*transport.Transport.connection_errors, ResponseError)
"""Kombu counts Redis' own answers as errors of one channel, which end a worker: `READONLY`, `UNBLOCKED`, `MASTERDOWN`,
`OOM`. A Redis that fails over, loads or is full gives them to every client. The remedy is to wait and connect
again, to the present master."""


class Unscripted(Lock):
    """A lock that is given back without a script, which no user may run."""

    def register_scripts(self) -> None:
        """None."""

    def do_release(self, expected_token: str) -> None:
        """Delete the key if it is still ours.

        Raises:
            LockNotOwnedError: its time was over, and somebody else may have it.
        """
        with self.redis.pipeline() as pipe:
            pipe.watch(self.name)
            if pipe.get(self.name) != expected_token:
                raise LockNotOwnedError("the lock is not ours any more")
            pipe.multi()
            pipe.delete(self.name)
            pipe.execute()


class Client(Redis):
    """Returns only messages that Celery can read."""

    def lock(self, *arguments: Any, **named: Any) -> Any:
        """As kombu takes it while it looks for messages that nobody acknowledged."""
        return super().lock(*arguments, **named | {"lock_class": Unscripted})

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """A message that was popped and is not passed on is gone: it is not delivered again."""
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not answer:
            return answer
        queue, raw = (part if isinstance(part, bytes) else str(part).encode() for part in answer)
        why = envelope.fault(raw, chained=queue != CONTROL_QUEUE.encode())
        if why is None:
            return answer
        log.error("dropped a message from %s: %s: %s", queue.decode(errors="replace"), why, envelope.excerpt(raw))
        return None  # as if nothing had come


class FromFile(CredentialProvider):
    """Asked for each new connection."""

    def __init__(self, user: str | None, file: Path) -> None:
        self.user, self.file = user, file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """User, and the newest password in the file."""
        try:
            password = passwords.listed(self.file)[0]
        except OSError as error:
            raise Unreachable(f"the password for Redis cannot be read: {error}") from error
        return (self.user, password) if self.user else (password,)


class OurChannel:
    """What our channels have in common."""

    def _get_client(self) -> Any:
        return Client

    def _get_queue_expire(self, args: Any) -> None:
        """No queue expires: kombu would keep its binding by a script, which no user may run (5.7). Whoever made a queue
        deletes it.
        """

    def _connparams(self, asynchronous: bool = False) -> Any:
        above: Any = super()
        parameters, file = above._connparams(asynchronous), settings().broker_password_file
        if file is not None:
            parameters["credential_provider"] = FromFile(parameters.pop("username", None), file)
            parameters.pop("password", None)
        return parameters


class Channel(OurChannel, transport.Channel):
    """On the Redis of the URL."""


class SentinelChannel(OurChannel, transport.SentinelChannel):
    """On the master that the Sentinels name."""


class Transport(transport.Transport):
    """`redis://`, `rediss://`, `redis+socket://`."""

    Channel = Channel
    connection_errors = AWAY


class SentinelTransport(transport.SentinelTransport):
    """`sentinel://a:26379;sentinel://b:26379`."""

    Channel = SentinelChannel
    connection_errors = AWAY
