"""Delivering webhooks: signed, and tried again until they are accepted or the tries are used up.

The message is kept in its row, so no death of a process loses one. It may arrive twice: receivers compare its number.
The controller that leads delivers, in a few threads beside everything else; each delivery is bounded in time and size
as a whole.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache
from typing import Any

import httpx
from sqlalchemy import ColumnElement, and_, func, select, update

from drover.settings import Settings
from models.database import transaction
from models.said import say
from models.webhook import Delivery, DeliveryState

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""For all of a delivery: name, connection, sending, answer."""
PARALLEL = 8
"""Deliveries under way at the same time: slow receivers delay only other deliveries."""
LONGEST_ERROR = 500
TRIES = 12
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(hours=1)
UNDER_WAY = timedelta(seconds=60)
"""A delivery that was begun is over by then, or the controller that began it has died."""

_under_way: set[int] = set()
"""Deliveries that threads of this process are working on."""
_lock = threading.Lock()


def tick(ours: Settings) -> None:
    """Hand deliveries that are due to threads of their own, as many as are free. The others wait in their rows."""
    with _lock:
        ids = _claimed(PARALLEL - len(_under_way))
        for delivery_id in ids:
            _under_way.add(delivery_id)
            _pool().submit(_deliver, delivery_id, ours)


def _claimed(free: int) -> list[int]:
    """Claim the deliveries that have waited longest, for this process until they are over."""
    if free <= 0:
        return []
    free_ones = select(Delivery.id).where(due(), Delivery.id.not_in(_under_way)).order_by(Delivery.next_at)
    query = (
        update(Delivery)
        .where(Delivery.id.in_(free_ones.limit(free).with_for_update(skip_locked=True)))
        .values(next_at=func.clock_timestamp() + UNDER_WAY)
        .returning(Delivery.id)
    )
    with transaction() as session:
        return list(session.scalars(query))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(PARALLEL, thread_name_prefix="webhook")


def _deliver(delivery_id: int, ours: Settings) -> None:
    """Runs in a thread of the pool: exceptions are logged here, because no caller receives them."""
    try:
        deliver(delivery_id, ours)
    except Exception:
        seconds = UNDER_WAY.total_seconds()
        log.exception(
            "delivery %d of a webhook is tried again in %g s: its row could not be written", delivery_id, seconds
        )
    finally:
        with _lock:
            _under_way.discard(delivery_id)


def due() -> ColumnElement[bool]:
    """Deliveries that it is time to try."""
    return and_(Delivery.state == DeliveryState.PENDING, Delivery.next_at <= func.clock_timestamp())


def deliver(delivery_id: int, ours: Settings) -> None:
    """Try once, and record the result."""
    with transaction() as session:
        delivery = session.get(Delivery, delivery_id)
    if delivery is None or delivery.state is not DeliveryState.PENDING:
        return
    error = _post(delivery, ours.webhook_secret)
    with transaction() as session:
        delivery = session.get_one(Delivery, delivery_id, with_for_update=True)
        delivery.tries += 1
        delivery.error = error
        if error is None:
            delivery.state, delivery.delivered_at = DeliveryState.DELIVERED, func.clock_timestamp()
        elif delivery.tries >= TRIES:
            delivery.state = DeliveryState.FAILED
        else:
            delivery.next_at = func.clock_timestamp() + min(FIRST_PAUSE * 2 ** (delivery.tries - 1), LONGEST_PAUSE)
        level = logging.WARNING if delivery.state is DeliveryState.FAILED else logging.INFO
        became = f"{delivery.state} (try {delivery.tries} of {TRIES})" + (f": {error}" if error else "")
        say(session, f"the webhook is {became}", level=level, job=delivery.job_id, drain=delivery.drain_id)


def _post(delivery: Delivery, secret: str) -> str | None:
    """The error, if any: of the address, the message, or the receiver."""
    if not secret:
        return "the controller has no DROVER_WEBHOOK_SECRET to sign with: set it"
    try:
        with transaction() as session:
            told = session.scalars(select(Delivery.body).where(Delivery.id == delivery.id)).one()
        body = json.dumps({"delivery": delivery.id, **told.json_object()}).encode()
        status = _in_time(_answer(delivery.url, body, secret))
    except TimeoutError:
        return f"it did not answer within {TIMEOUT_S:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace("\0", "")[:LONGEST_ERROR]
    return None if 200 <= status < 300 else f"it answered {status}"


def _in_time(answer: Coroutine[Any, Any, int]) -> int:
    """Not by `asyncio.run`: that would wait for the thread that looks a name up, however long that takes.

    Raises:
        TimeoutError: it took too long.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(answer, TIMEOUT_S))
    finally:
        loop.close()


async def _answer(url: str, body: bytes, secret: str) -> int:
    """The status; the receiver's body is not read. Redirects are not followed."""
    client = httpx.AsyncClient(timeout=TIMEOUT_S)
    async with client, client.stream("POST", url, content=body, headers=headers(body, secret, time.time())) as answer:
        return answer.status_code


def headers(body: bytes, secret: str, at: float) -> dict[str, str]:
    """Headers that prove that a message is genuine and new: the receiver computes the same from time and body."""
    moment = str(int(at))
    signature = hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Drover-Timestamp": moment,
        "X-Drover-Signature": f"sha256={signature}",
    }
