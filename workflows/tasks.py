"""Celery tasks of the control queue. Others send them by name: `drover.job.submit`, `drover.drain.submit` and so on.

The sender need not import Drover. Any content may arrive. What is wrong is refused in one sentence that names the
field, and kept under the submission's idempotency key; what has no key that can be used is logged and dropped.
"""

import logging
from collections.abc import Sequence
from typing import Any

from drover.broker.app import app
from drover.errors import DroverError, PreconditionFailed
from models.contracts import shown
from models.drain import DrainKind
from workflows import guests
from workflows.drain import commands, dispatcher
from workflows.drain.planner import DrainRequest
from workflows.migration import jobs
from workflows.submissions import Cancellation, DrainMove, DrainSubmission, MigrationSubmission, key_of, named_only

log = logging.getLogger(__name__)


@app.task(name="drover.job.submit", ignore_result=True)
def submit(*unnamed: Any, **said: Any) -> None:
    """Queue a migration, once per key however often the message arrives; `said` is a `MigrationSubmission`.

    A refusal is kept as a job in state `rolled_back` under the same key: `drover job show --key KEY` shows it, and
    the webhook reports it.
    """
    if (key := _key("drover.job.submit", said)) is None:
        return
    try:
        asked = MigrationSubmission.read(named_only(unnamed, said))
        options, terms = asked.options(), asked.submit_options()
        there = guests.destination(asked)
        jobs.submit(asked.guest, there, options=options, terms=terms, idempotency_key=key, by="drover.job.submit")
    except DroverError as error:
        log.warning("the submission %r was refused, nothing was changed: %s", key, error)
        guest, to, webhook = (said.get(name) for name in ("guest", "to", "webhook"))
        jobs.record_refusal(guest, to, key, str(error), by="drover.job.submit", webhook=webhook)


def _key(task: str, said: dict[str, Any]) -> str | None:
    if (key := key_of(said)) is None:
        log.warning("a %s was dropped: %s is no idempotency key", task, shown(said.get("idempotency_key")))
    return key


@app.task(name="drover.job.cancel", ignore_result=True)
def cancel(*unnamed: Any, **said: Any) -> None:
    """Request a job's cancellation; `said` is a `Cancellation`."""
    try:
        jobs.cancel(Cancellation.read(named_only(unnamed, said)).job_id, by="drover.job.cancel")
    except PreconditionFailed as error:
        log.warning("the job is not cancelled, it goes on: %s", error)


@app.task(name="drover.drain.submit", ignore_result=True)
def submit_drain(*unnamed: Any, **said: Any) -> None:
    """Empty a host, once per key however often the message arrives; `said` is a `DrainSubmission`."""
    _submit(DrainKind.DRAIN, "drover.drain.submit", unnamed, said)


@app.task(name="drover.drain.return", ignore_result=True)
def submit_return(*unnamed: Any, **said: Any) -> None:
    """Bring a host's guests home, likewise."""
    _submit(DrainKind.RETURN, "drover.drain.return", unnamed, said)


def _submit(kind: DrainKind, task: str, unnamed: Sequence[Any], said: dict[str, Any]) -> None:
    """A refusal is kept as a cancelled drain under the same key: `drover drain show --key KEY` shows it."""
    if (key := _key(task, said)) is None:
        return
    try:
        request = DrainRequest.of(kind, DrainSubmission.read(named_only(unnamed, said)))
        earlier, forecast = commands.submitted_or_forecast(request, key)
        if earlier is None:
            commands.submit(request, forecast=forecast, idempotency_key=key)
    except DroverError as error:
        log.warning("the submission %r was refused, nothing was changed: %s", key, error)
        commands.record_refusal(kind, said.get("host"), key, str(error), said.get("webhook"))


@app.task(name="drover.drain.move", ignore_result=True)
def move(*unnamed: Any, **said: Any) -> None:
    """Submit the job of a guest whose turn it is in a drain; `said` is a `DrainMove`."""
    try:
        asked = DrainMove.read(named_only(unnamed, said))
    except PreconditionFailed as error:
        log.warning("a drover.drain.move was dropped: %s", error)
        return
    dispatcher.submit(asked.drain_id, asked.guest)
