"""Celery tasks of the control queue. Others send them by name: `drover.job.submit`, `drover.drain.submit` and so on.

No import of ours is needed for that.
"""

import logging
from collections.abc import Sequence
from typing import Any

from drover.broker.app import app
from drover.errors import PreconditionFailed
from models.drain import DrainKind
from workflows import schedule, submit_options
from workflows.drain import commands, dispatcher
from workflows.drain.commands import DrainRequest
from workflows.drain.planner import Where
from workflows.migration import jobs
from workflows.migration.jobs import MigrationOptions
from workflows.submit_options import SubmitOptions, words

log = logging.getLogger(__name__)


@app.task(name="drover.job.submit", ignore_result=True)
def submit(
    *,
    guest: str,
    to: str,
    idempotency_key: str,
    max_downtime_ms: int = MigrationOptions.max_downtime_ms,
    bandwidth_bytes_per_s: int = 0,
    webhook: str | None = None,
    **when: Any,
) -> None:
    """Queue a migration, once per key however often the message arrives.

    `when` are `priority`, `at`, `window`, `timezone`, `hold` and `seed_now`, see `workflows.submit_options.read`. A
    refusal is kept as a job in state `rolled_back` under the same key: `drover job show --key KEY` tells, and so does
    the webhook.
    """
    try:
        options = MigrationOptions(max_downtime_ms=max_downtime_ms, bandwidth_bytes_per_s=bandwidth_bytes_per_s)
        names = {"guest": guest, "to": to, "idempotency_key": idempotency_key}
        for name, value in names.items():
            words(name, value)
        if when.get("every"):
            raise PreconditionFailed("a job moves its guest once: `every` is for drains and returns")
        asked = _terms(webhook=webhook, **when)
        jobs.submit(guest, to, options=options, terms=asked, idempotency_key=idempotency_key, by="drover.job.submit")
    except PreconditionFailed as error:
        log.warning("the submission %r was refused, nothing was changed: %s", idempotency_key, error)
        jobs.record_refusal(guest, to, idempotency_key, str(error), by="drover.job.submit", webhook=webhook)


def _terms(**when: Any) -> SubmitOptions:
    try:
        return submit_options.read(**when)
    except TypeError as error:
        raise PreconditionFailed(f"the submission says something that nobody understands: {error}") from error


@app.task(name="drover.job.cancel", ignore_result=True)
def cancel(*, job_id: int) -> None:
    """Request a job's cancellation."""
    try:
        jobs.cancel(job_id, by="drover.job.cancel")
    except PreconditionFailed as error:
        log.warning("the job is not cancelled, it goes on: %s", error)


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
    order = DrainRequest(kind=kind, host=host)
    try:
        words("host", host)
        words("idempotency_key", key)
        order = _order(kind, host, **how)
        earlier, forecast = commands.submitted_or_forecast(order, key)
        if earlier is None:
            commands.submit(order, forecast=forecast, idempotency_key=key)
    except PreconditionFailed as error:
        log.warning("the submission %r was refused, nothing was changed: %s", key, error)
        commands.record_refusal(order, key, str(error))


def _order(
    kind: DrainKind,
    host: str,
    *,
    to: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_downtime_ms: int = MigrationOptions.max_downtime_ms,
    bandwidth_bytes_per_s: int = 0,
    **when: Any,
) -> DrainRequest:
    """`when` are `priority`, `at`, `window`, `timezone`, `every`, `hold`, `seed_now` and `webhook`."""
    return DrainRequest(
        kind=kind,
        host=host,
        where=Where(to=_hosts("to", to), exclude=_hosts("exclude", exclude)),
        options=MigrationOptions(max_downtime_ms=max_downtime_ms, bandwidth_bytes_per_s=bandwidth_bytes_per_s),
        terms=_terms(**when),
        recurrence=schedule.recurrence(when["every"], when.get("timezone", "UTC")) if when.get("every") else None,
    )


def _hosts(name: str, said: object) -> list[str]:
    if not isinstance(said, (list, tuple)):
        raise PreconditionFailed(f"{name} is a list of hosts, not {said!r}")
    return [words(name, host) for host in said]


@app.task(name="drover.drain.move", ignore_result=True)
def move(*, drain_id: int, guest: str) -> None:
    """Submit the job of a guest whose turn it is in a drain."""
    dispatcher.submit(drain_id, guest)
