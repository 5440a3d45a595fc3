"""Celery tasks of the control queue. Others send them by name: `drover.job.submit`, `drover.drain.submit` and so on.

The sender need not import Drover. Any content may arrive. What is wrong is refused in one sentence that names the
field, and kept under the submission's idempotency key; what has no key that can be used is logged and dropped. Who may
send what is said in `workflows.permissions`.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from drover.broker.app import app
from drover.errors import DroverError, NotPermitted, NotProven, PreconditionFailed
from models.access import Action
from models.contracts import shown
from models.drain import DrainKind
from workflows import guests, permissions
from workflows.drain import commands, dispatcher
from workflows.drain.planner import DrainRequest
from workflows.migration import jobs
from workflows.permissions import Person
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
    by = "drover.job.submit"
    try:
        person, arguments = permissions.submitter("drover.job.submit", said)
        by = person.by
        asked = MigrationSubmission.read(named_only(unnamed, arguments))
        options, terms = asked.options(), asked.submit_options()
        there = guests.destination(asked)
        permissions.check_move(person, asked.guest, there)
        jobs.submit(
            asked.guest,
            there,
            options=options,
            terms=terms,
            still_wanted=partial(permissions.check_new_job, person),
            idempotency_key=key,
            by=by,
            token=person.token,
        )
    except DroverError as error:
        log.warning("the submission %r was refused, nothing was changed: %s", key, error)
        known = _believed(said, error)
        jobs.record_refusal(known.get("guest"), known.get("to"), key, str(error), by=by, webhook=known.get("webhook"))


def _believed(said: dict[str, Any], refusal: DroverError) -> dict[str, Any]:
    """What may be said of a refusal: of a message that anybody may have sent nothing, so that it makes no job or drain
    and nobody is told.
    """
    return {} if isinstance(refusal, NotProven) else said


def _key(task: str, said: dict[str, Any]) -> str | None:
    if (key := key_of(said)) is None:
        log.warning("a %s was dropped: %s is no idempotency key", task, shown(said.get("idempotency_key")))
    return key


@app.task(name="drover.job.cancel", ignore_result=True)
def cancel(*unnamed: Any, **said: Any) -> None:
    """Request a job's cancellation; `said` is a `Cancellation`. One that is not permitted is an event of the job."""
    try:
        person, arguments = permissions.submitter("drover.job.cancel", said)
        number = Cancellation.read(named_only(unnamed, arguments)).job_id
        _cancel(person, number)
    except PreconditionFailed as error:
        log.warning("the job is not cancelled, it goes on: %s", error)


def _cancel(person: Person, number: int) -> None:
    try:
        permissions.check_job(person, Action.CANCEL, number)
    except NotPermitted as error:
        jobs.record_refused_cancellation(number, str(error), by=person.by)
        raise
    jobs.cancel(number, by=person.by)


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
        person, arguments = permissions.submitter(task, said)
        request = DrainRequest.of(kind, DrainSubmission.read(named_only(unnamed, arguments)))
        permissions.check_new_drain(person, request)
        earlier, forecast = commands.submitted_or_forecast(request, key)
        if earlier is None:
            commands.submit(request, forecast=forecast, idempotency_key=key, by=person.by, token=person.token)
    except DroverError as error:
        log.warning("the submission %r was refused, nothing was changed: %s", key, error)
        known = _believed(said, error)
        commands.record_refusal(kind, known.get("host"), key, str(error), known.get("webhook"))


@app.task(name="drover.drain.move", ignore_result=True)
def move(*unnamed: Any, **said: Any) -> None:
    """Submit the job of a guest whose turn it is in a drain; `said` is a `DrainMove`."""
    try:
        asked = DrainMove.read(named_only(unnamed, said))
    except PreconditionFailed as error:
        log.warning("a drover.drain.move was dropped: %s", error)
        return
    dispatcher.submit(asked.drain_id, asked.guest)
