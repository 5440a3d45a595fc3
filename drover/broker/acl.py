"""Users of Redis and what each may do there, as lines of its ACL file. Needs Redis 7: what others may do to a queue is
a part of its own, in brackets.
"""

import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from drover.broker.app import CONTROL_QUEUE, UNROUTED_QUEUE, host_queue, unacked

EVENTS = "&/0.celeryev/*"
"""Channels of Celery's events, which Flower shows."""
LOGGED_IN = "-@all +@connection -@admin -@dangerous -client|tracking"
"""What others write is not told to anybody."""
TAKING = (
    "+multi +exec +discard +watch +unwatch +brpop +rpop +rpush +lpush +llen +zadd +zrem +zrange +zrangebyscore "
    "+hset +hget +hdel +set +get +del"
)
"""What kombu does to a queue whose messages it takes, and to its own record of those that it has taken. No script: one
that does not end stops Redis for everybody."""
SENDING = "-@all +lpush +llen"
"""To a queue that others take messages from; kombu asks how long it is before it sends the first one."""
BOUND = "(%W~_kombu.binding* -@all +sadd)"
"""Kombu notes which queues there are; nobody reads that but Flower."""


class Purpose(enum.StrEnum):
    """What a user of Redis is for."""

    HOST = "host"
    CONTROLLER = "controller"
    SUBMITTER = "submitter"
    FLOWER = "flower"


def lines(users: Mapping[Purpose, Sequence[str]], passwords: Mapping[str, Iterable[str]]) -> list[str]:
    """Of these users, who get in by any of their passwords, and of one who may have Redis read the file again.

    Args:
        users: names by purpose; hosts as their workers are named.
        passwords: of each of them, and of `LOADER`.
    """
    hosts = users.get(Purpose.HOST, ())
    rules = {LOADER: f"{LOGGED_IN} +acl|load +acl|log"}
    rules |= {name: RULES[purpose](name, hosts) for purpose, names in users.items() for name in names}
    return [
        f"user {name} on {_digests(passwords[name])} resetkeys resetchannels {rule}" for name, rule in rules.items()
    ]


def _digests(passwords: Iterable[str]) -> str:
    return " ".join(f"#{hashlib.sha256(password.encode()).hexdigest()}" for password in passwords)


LOADER = "acl"
"""May have Redis read the file again, and nothing else."""
NOBODY_ELSE = "user default off resetpass resetkeys resetchannels -@all"
"""Who names no user does not get in."""


def _host(name: str, hosts: Sequence[str]) -> str:
    """Takes messages from its own queue, and puts the next link of a chain into the queues of others."""
    own = " ".join(f"~{key}" for key in (host_queue(name), *unacked(name)))
    others = " ".join(f"~{host_queue(other)}" for other in hosts if other != name)
    push = f" ({others} {SENDING})" if others else ""
    return f"{own} {EVENTS} {LOGGED_IN} {TAKING} +publish{push} {BOUND}"


def _controller(name: str, hosts: Sequence[str]) -> str:
    """Takes submissions, sends to every host, and counts what waits."""
    return f"~drover.* {' '.join(f'~{key}' for key in unacked('control'))} ~_kombu.binding* {EVENTS} " + (
        f"{LOGGED_IN} {TAKING} +sadd +publish +lpushx +info"
    )


def _submitter(name: str, hosts: Sequence[str]) -> str:
    """Asks for moves and drains."""
    return f"{EVENTS} {LOGGED_IN} +multi +exec +publish (~{CONTROL_QUEUE} {SENDING}) {BOUND}"


def _flower(name: str, hosts: Sequence[str]) -> str:
    """Shows events, and how much waits. What it asks of workers is sent to a channel that none of them listens to."""
    queues = " ".join(f"%R~{queue}" for queue in (CONTROL_QUEUE, UNROUTED_QUEUE, *map(host_queue, hosts)))
    own = " ".join(f"~{key}" for key in ("celeryev*", "*.reply.celery.pidbox", "_kombu.binding*", *unacked(name)))
    heard = "+subscribe +psubscribe +unsubscribe +punsubscribe"
    bound = "+sadd +srem +smembers +exists"
    return f"{queues} {own} {EVENTS} {LOGGED_IN} {TAKING} {heard} {bound} (&/0.celery.pidbox -@all +publish)"


RULES = {
    Purpose.HOST: _host,
    Purpose.CONTROLLER: _controller,
    Purpose.SUBMITTER: _submitter,
    Purpose.FLOWER: _flower,
}
