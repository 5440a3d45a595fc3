"""Putting a question to a host and waiting for its answer. The row holds both; the broker only carries its id."""

import time
from collections.abc import Callable
from typing import cast

from sqlalchemy import Update, insert, select, update

from drover import tracing
from drover.errors import HostRefused, NoBroker, Unavailable, UnreadableDocument
from drover.escaping import escaped
from models.contracts import Json
from models.database import autocommitting, listening
from models.host import HostRequest, RequestState
from models.host_rpc import Answer, Question, Refusal
from models.notifications import Channel

ANSWER_TIMEOUT_S = 30.0
LOOK_S = 0.5


def ask(host: str, question: Question[Answer]) -> Answer:
    """A host's answer.

    Raises:
        HostRefused: the host refuses, or failed to look.
        Unavailable: it cannot be reached, does not answer in time, or asks to be asked again.
    """
    with autocommitting() as connection, listening(connection, Channel.ANSWERED) as wait:
        asked = (
            insert(HostRequest)
            .values(host=host, kind=question.kind, question=question.json_object())
            .returning(HostRequest.id)
        )
        request_id = connection.execute(asked).scalar_one()
        answer = select(HostRequest.state, HostRequest.reply).where(HostRequest.id == request_id)
        _send(request_id, host, question.kind)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while time.monotonic() < deadline:
            _until_answered(request_id, wait)
            request = connection.execute(answer).one()
            if request.state is RequestState.ANSWERED and request.reply is not None:
                return _read(question, request.reply, host)
            if request.state in {RequestState.REFUSED, RequestState.FAILED}:
                why, failed = Refusal.read(request.reply or {}), request.state is RequestState.FAILED
                if why.later:
                    raise Unavailable(why.error)
                raise HostRefused(why.error, host=host, failed=failed, checks=why.checks)
        connection.execute(_withdrawal(request_id))
    raise Unavailable(f"host {host} did not answer within {ANSWER_TIMEOUT_S:g} s: is its worker busy?")


def _withdrawal(request_id: int) -> Update:
    """Nobody waits for the answer any more: a worker that comes to it later does not begin, for instance, to start a
    guest.
    """
    mine = (HostRequest.id == request_id) & (HostRequest.state == RequestState.ASKED)
    nobody = Refusal(error="nobody waits for the answer any more").json_object()
    return update(HostRequest).where(mine).values(state=RequestState.FAILED, reply=nobody)


def _read(question: Question[Answer], reply: Json, host: str) -> Answer:
    try:
        return cast("Answer", question.answer.read(reply))
    except UnreadableDocument as error:
        raise HostRefused(f"{host}: {error}", host=host, failed=True) from error


def _send(request_id: int, host: str, kind: str) -> None:
    from kombu.exceptions import OperationalError  # Celery with it, which only who asks has to load

    from drover.broker.app import app, host_queue

    try:
        app.send_task(
            "drover.host.answer",
            kwargs={"request_id": request_id},
            queue=host_queue(host),
            headers=tracing.headers(),
            argsrepr=escaped(f"{kind} on {host}"),  # what Flower shows
        )
    except OperationalError as error:
        raise NoBroker(f"the broker cannot be reached: {error}") from error


def _until_answered(request_id: int, wait: Callable[[float], list[str]]) -> None:
    """Or until a pause is over: a worker of an earlier version sends no notification."""
    look_at = time.monotonic() + LOOK_S
    while (left := look_at - time.monotonic()) > 0 and str(request_id) not in wait(left):
        pass
