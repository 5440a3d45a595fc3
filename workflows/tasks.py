"""Celery tasks of the control queue. Others send them by name: `drover.job.submit`, `drover.drain.submit` and so on.

No import of ours is needed for that.
"""

import logging
from collections.abc import Sequence
from typing import Any

from models.drain import DrainKind
from models.errors import PreconditionFailed
from models.settings import settings
from workers.app import app
from workflows import jobs, schedule, terms, webhooks
from workflows.drains import orders, turns
from workflows.drains.orders import Order
from workflows.drains.planning import Where
from workflows.jobs import MigrationOptions
from workflows.terms import Terms

log = logging.getLogger(__name__)


@app.task(name="drover.job.submit", ignore_result=True)
def submit(
    *,
    guest: str,
    to: str,
    idempotency_key: str,
    max_blackout_ms: int = MigrationOptions.max_blackout_ms,
    bandwidth_bytes_per_s: int = 0,
    webhook: str | None = None,
    **when: Any,
) -> None:
    """Queue a migration, once per key however often the message arrives.

    `when` are `priority`, `at`, `window`, `timezone`, `hold` and `seed_now`, see `workflows.terms.read`. A refusal is
    kept as a job in state `undone` under the same key: `drover job show --key KEY` tells, and so does the webhook.
    """
    options = MigrationOptions(max_blackout_ms=max_blackout_ms, bandwidth_bytes_per_s=bandwidth_bytes_per_s)
    try:
        asked = _terms(webhook=webhook, **when)
        jobs.submit(guest, to, options=options, terms=asked, idempotency_key=idempotency_key, by="drover.job.submit")
    except PreconditionFailed as error:
        log.warning("the submission %s was refused: %s", idempotency_key, error)
        jobs.record_refusal(guest, to, idempotency_key, str(error), by="drover.job.submit", webhook=webhook)


def _terms(**when: Any) -> Terms:
    try:
        return terms.read(**when)
    except TypeError as error:
        raise PreconditionFailed(f"the submission says something that nobody understands: {error}") from error


@app.task(name="drover.job.cancel", ignore_result=True)
def cancel(*, job_id: int) -> None:
    """Ask for a job's end."""
    try:
        jobs.cancel(job_id, by="drover.job.cancel")
    except PreconditionFailed as error:
        log.warning("job %d is not cancelled: %s", job_id, error)


@app.task(name="drover.drain.submit", ignore_result=True)
def submit_drain(*, host: str, idempotency_key: str, **how: Any) -> None:
    """Empty a host, once per key however often the message arrives; see `_order` for `how`."""
    _submit(DrainKind.DRAIN, host, idempotency_key, **how)


@app.task(name="drover.drain.return", ignore_result=True)
def submit_return(*, host: str, idempotency_key: str, **how: Any) -> None:
    """Bring a host's guests home, likewise."""
    _submit(DrainKind.RETURN, host, idempotency_key, **how)


def _submit(kind: DrainKind, host: str, key: str, **how: Any) -> None:
    """A refusal is kept as a cancelled drain under the same key: `drover drain show --key KEY` tells."""
    order = Order(kind=kind, host=host)
    try:
        order = _order(kind, host, **how)
        earlier, forecast = orders.submitted_or_forecast(order, key)
        if earlier is None:
            orders.submit(order, forecast=forecast, idempotency_key=key)
    except PreconditionFailed as error:
        log.warning("the submission %s was refused: %s", key, error)
        orders.record_refusal(order, key, str(error))


def _order(
    kind: DrainKind,
    host: str,
    *,
    to: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_blackout_ms: int = MigrationOptions.max_blackout_ms,
    bandwidth_bytes_per_s: int = 0,
    **when: Any,
) -> Order:
    """`when` are `priority`, `at`, `window`, `timezone`, `every`, `hold`, `seed_now` and `webhook`."""
    return Order(
        kind=kind,
        host=host,
        where=Where(to=to, exclude=exclude),
        options=MigrationOptions(max_blackout_ms=max_blackout_ms, bandwidth_bytes_per_s=bandwidth_bytes_per_s),
        terms=_terms(**when),
        recurrence=schedule.recurrence(when["every"], when.get("timezone", "UTC")) if when.get("every") else None,
    )


@app.task(name="drover.drain.move", ignore_result=True)
def move(*, drain_id: int, guest: str) -> None:
    """Submit the job of a guest whose turn it is in a drain."""
    turns.submit(drain_id, guest)


@app.task(name="drover.webhook.deliver", ignore_result=True)
def deliver(*, delivery_id: int) -> None:
    """Try once to tell somebody how a job or a drain ended."""
    webhooks.deliver(delivery_id, settings())
