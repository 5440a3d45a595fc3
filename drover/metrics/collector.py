"""All figures at one moment: what a scrape gets."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from kombu.exceptions import OperationalError
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from drover.broker import health
from drover.broker.app import CONTROL_QUEUE, UNROUTED_QUEUE, host_queue
from drover.metrics import families, gauges
from drover.metrics.counters import Ended
from drover.settings import Settings
from models.database import transaction
from models.host import Host
from workflows.presence import listed

PATIENCE_S = 4.0
"""For Postgres, and then for Redis: Prometheus gives up after 10 s, and needs to get before then which is silent."""
UNREACHABLE = (SQLAlchemyError, OperationalError, RedisError, OSError)

Answer = TypeVar("Answer")


class Query(Generic[Answer]):
    """A query run in a thread of its own, so that a server which does not answer does not block a scrape.

    While one has no answer no other is started: scrapes do not pile up at a frozen server.
    """

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self.ask = ask
        self.turn = threading.Lock()
        self.answer: Future[Answer | None] | None = None

    def __call__(self) -> Answer | None:
        """The answer; None: there was none in time."""
        with self.turn:
            if self.answer is None or self.answer.done():
                self.answer = Future()
                threading.Thread(target=self._put, args=(self.answer,), name="metrics", daemon=True).start()
            answer = self.answer
        try:
            return answer.result(PATIENCE_S)
        except TimeoutError:
            return None

    def _put(self, answer: "Future[Answer | None]") -> None:
        try:
            answer.set_result(self.ask())
        except UNREACHABLE:
            answer.set_result(None)
        except BaseException as error:  # a bug: the scrape gets the error
            answer.set_exception(error)


class Fleet(Collector):
    """All figures. Their number grows with hosts and with moves under way, not with jobs that have ended."""

    def __init__(self, ours: Settings, leading: Callable[[], bool]) -> None:
        self.ours, self.leading = ours, leading
        self.ended = Ended()
        self.hosts: Sequence[str] = []
        self.database, self.broker = Query(self._ask_database), Query(self._ask_broker)

    def describe(self) -> list[Metric]:
        """Nothing: the registry would ask the database for the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        yield families.LEADING.of(int(self.leading()))
        told = self.database()
        yield families.DATABASE_UP.of(int(told is not None))
        yield from told or []
        lengths = self.broker()
        yield families.BROKER_UP.of(int(lengths is not None))
        yield families.QUEUE_MESSAGES.of(lengths or {})

    def _ask_database(self) -> list[Metric]:
        with transaction() as session:
            now = session.scalars(select(func.clock_timestamp())).one()
            self.hosts = session.scalars(select(Host.name).where(listed(self.ours))).all()
            return [
                *gauges.of_hosts(session, now, self.ours),
                *gauges.of_jobs(session, now, self.ours),
                *gauges.of_drains(session, now),
                *gauges.of_rolls(session),
                *self.ended.metrics(session, now),
            ]

    def _ask_broker(self) -> dict[str, int]:
        """How many messages wait in each queue, with those of the hosts that were last read from the database."""
        return health.lengths([CONTROL_QUEUE, UNROUTED_QUEUE, *map(host_queue, self.hosts)])
