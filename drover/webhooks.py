"""Delivering webhooks: signed, and tried again until they are accepted or the tries are used up.

The message is kept in its row, so no death of a process loses one. It may arrive twice: receivers compare its number.
The controller that leads delivers, in a few threads beside everything else; each delivery is bounded in time and size
as a whole. It goes only to receivers that an operator has listed, see `workflows.receivers`.
"""

import hashlib
import hmac
import json
import logging
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache

import httpx
from sqlalchemy import ColumnElement, and_, func, select, update
from standardwebhooks.webhooks import Webhook

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models import decision_log
from models.database import transaction
from models.webhook import Delivery, DeliveryState
from workflows import receivers
from workflows.addresses import Address, addresses_of, in_time

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
    error = _post(delivery, ours)
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
        about = {"job": delivery.job_id, "drain": delivery.drain_id, "roll": delivery.roll_id}
        decision_log.add(session, f"the webhook is {became}", level=level, **about)


def _post(delivery: Delivery, ours: Settings) -> str | None:
    """The error, if any: of the address, the message, or the receiver."""
    try:
        status = in_time(_answer(delivery, ours), TIMEOUT_S)
    except TimeoutError:
        return f"it did not answer within {TIMEOUT_S:g} s"
    except PreconditionFailed as error:
        return str(error)[:LONGEST_ERROR]
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace("\0", "")[:LONGEST_ERROR]
    return None if 200 <= status < 300 else f"it answered {status}"


async def _answer(delivery: Delivery, ours: Settings) -> int:
    """The status.

    Raises:
        PreconditionFailed: no message may go there.
    """
    with transaction() as session:
        told = session.scalars(select(Delivery.body).where(Delivery.id == delivery.id)).one()
    body = json.dumps({"delivery": delivery.id, **told.json_object()})
    status, _ = await send(delivery.url, message_id(delivery), body, ours, timeout_s=TIMEOUT_S)
    return status


async def send(
    url: str, message: str, body: str, ours: Settings, *, timeout_s: float, most_bytes: int = 0
) -> tuple[int, bytes]:
    """Send a signed message; answers the status, and as much of what was answered as is wanted.

    The name is looked up once, and the message goes to an address that was found and checked.

    Raises:
        PreconditionFailed: no message may go there.
        httpx.HTTPError: it did not arrive.
    """
    host, port = receivers.host_and_port(url)
    listed = receivers.listed()
    found = await addresses_of(host, port) if receivers.may_be_one(host, listed) else ()
    receiver, addresses = receivers.chosen(host, found, listed)
    with transaction() as session:
        secrets = receivers.secrets_of(session, receiver.name, ours)
    signed = headers(message, body, secrets, datetime.now(UTC))
    signed |= former_headers(body, ours.webhook_secret, time.time()) if ours.webhook_secret else {}
    return await _answered(url, body, signed, addresses, timeout_s, most_bytes)


async def _answered(
    url: str, body: str, signed: Mapping[str, str], addresses: Sequence[Address], timeout_s: float, most_bytes: int
) -> tuple[int, bytes]:
    """What the first address says that takes a connection.

    Redirects are not followed, and no proxy of the environment is asked: who was checked must answer. By TLS it must
    still be the one that the URL names.
    """
    named = httpx.URL(url)
    patience = httpx.Timeout(timeout_s, connect=timeout_s / len(addresses))
    sent = {"Host": named.netloc.decode(), "Content-Type": "application/json", **signed}
    extensions = {"sni_hostname": named.host}
    client = httpx.AsyncClient(verify=_trusted(), trust_env=False, follow_redirects=False, timeout=patience)
    async with client:
        for address in addresses:
            there = named.copy_with(host=str(address))
            try:
                async with client.stream("POST", there, content=body, headers=sent, extensions=extensions) as answer:
                    return answer.status_code, await _read(answer, most_bytes)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if address == addresses[-1]:
                    raise
    raise AssertionError("there is at least one address")


async def _read(answer: httpx.Response, most_bytes: int) -> bytes:
    """The beginning; the rest is not read."""
    read = b""
    if most_bytes:
        async for part in answer.aiter_bytes():
            read += part
            if len(read) >= most_bytes:
                break
    return read[:most_bytes]


@cache
def _trusted() -> ssl.SSLContext:
    """The authorities that certificates may be of: those of `SSL_CERT_FILE`, or the usual ones."""
    return httpx.create_ssl_context()


def message_id(delivery: Delivery) -> str:
    """The same in each try, and no other message has it: not of another fleet, nor of a database made anew."""
    return f"msg_{delivery.id}_{delivery.created_at.astimezone(UTC):%Y%m%dT%H%M%S%f}"


def headers(message: str, body: str, secrets: Sequence[str], at: datetime) -> dict[str, str]:
    """What proves that a message is ours and new, as Standard Webhooks has it: one signature with each secret."""
    return {
        "webhook-id": message,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message, at, body) for secret in secrets),
    }


def former_headers(body: str, secret: str, at: float) -> dict[str, str]:
    """Those of Drover 0.1, for receivers that know no others."""
    moment = str(int(at))
    signature = hmac.new(secret.encode(), f"{moment}.{body}".encode(), hashlib.sha256).hexdigest()
    return {"X-Drover-Timestamp": moment, "X-Drover-Signature": f"sha256={signature}"}
