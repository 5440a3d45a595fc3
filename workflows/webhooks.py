"""Delivering webhooks: signed, and tried again until somebody has taken them or it was tried often enough.

The message waits in its row, so whoever dies loses none; one may arrive twice, and its number tells.
"""

import hashlib
import hmac
import json
import logging
import time
from datetime import timedelta

import httpx
from sqlalchemy import ColumnElement, and_, func, select

from models.base import now
from models.database import transaction
from models.settings import Settings
from models.webhook import Delivery, DeliveryState
from workers.app import CONTROL_QUEUE, app

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
TRIES = 12
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(hours=1)
UNDER_WAY = timedelta(seconds=60)
"""A delivery that was sent for is over by then, or the message was lost."""


def tick() -> None:
    """Send for every delivery that is due."""
    with transaction() as session:
        waiting = session.scalars(select(Delivery).where(due()).with_for_update(skip_locked=True)).all()
        for delivery in waiting:
            delivery.next_at = func.clock_timestamp() + UNDER_WAY
    for delivery in waiting:
        app.send_task("drover.webhook.deliver", kwargs={"delivery_id": delivery.id}, queue=CONTROL_QUEUE)


def due() -> ColumnElement[bool]:
    """Deliveries that it is time to try."""
    return and_(Delivery.state == DeliveryState.PENDING, Delivery.next_at <= func.clock_timestamp())


def deliver(delivery_id: int, ours: Settings) -> None:
    """Try once, and write down what came of it."""
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
            delivery.state, delivery.delivered_at = DeliveryState.DELIVERED, now()
        elif delivery.tries >= TRIES:
            delivery.state = DeliveryState.FAILED
        else:
            delivery.next_at = func.clock_timestamp() + min(FIRST_PAUSE * 2 ** (delivery.tries - 1), LONGEST_PAUSE)


def _post(delivery: Delivery, secret: str) -> str | None:
    """What went wrong, if something did. Redirects are not followed: the answer must come from who was named."""
    if not secret:
        return "the controller has no DROVER_WEBHOOK_SECRET to sign with: set it"
    body = json.dumps({"delivery": delivery.id, **delivery.body}).encode()
    try:
        answer = httpx.post(delivery.url, content=body, headers=headers(body, secret, time.time()), timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{type(error).__name__}: {error}"
    return None if answer.is_success else f"it answered {answer.status_code}"


def headers(body: bytes, secret: str, at: float) -> dict[str, str]:
    """What proves that a message is ours and new: the receiver computes the same from time and body."""
    moment = str(int(at))
    signature = hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Drover-Timestamp": moment,
        "X-Drover-Signature": f"sha256={signature}",
    }
