"""Putting a question to a host and waiting for its answer. The row holds both; the broker only carries its id."""

import time
from datetime import timedelta
from typing import Any

from kombu.exceptions import OperationalError
from sqlalchemy import ColumnElement, func, select

from models.base import Document
from models.database import transaction
from models.errors import PreconditionFailed, Unavailable
from models.host import Host, HostRequest, RequestState
from models.settings import Settings, settings
from workers.app import app, host_queue

ANSWER_TIMEOUT_S = 30.0
POLL_S = 0.02


def known_host(name: str) -> Host:
    """The host with this name, whose worker was heard of lately.

    Raises:
        PreconditionFailed: there is none, or it is silent.
    """
    with transaction() as session:
        found = session.execute(select(Host, alive(settings())).where(Host.name == name)).one_or_none()
        names = None if found else ", ".join(session.scalars(select(Host.name).order_by(Host.name)))
    if found is None:
        raise PreconditionFailed(f"there is no host {name!r}; known hosts: {names or 'none, start a worker first'}")
    host, is_alive = found
    if not is_alive:
        raise Unavailable(
            f"host {name} has not been heard of since {host.heartbeat_at:%Y-%m-%d %H:%M:%S %Z}: "
            f"start its worker with `drover worker --host {name}`"
        )
    return host


def alive(ours: Settings) -> ColumnElement[bool]:
    """Hosts whose worker was heard of lately."""
    return Host.heartbeat_at > func.clock_timestamp() - ours.host_timeout


def ask(host: str, kind: str, **question: Any) -> Document:
    """A host's answer.

    Raises:
        PreconditionFailed: the host refuses, cannot be reached, or does not answer in time.
    """
    request = HostRequest(host=host, kind=kind, question=question)
    with transaction() as session:
        session.add(request)
    try:
        app.send_task(
            "drover.host.answer",
            kwargs={"request_id": request.id},
            queue=host_queue(host),
            argsrepr=f"{kind} on {host}",  # what Flower shows
        )
    except OperationalError as error:
        raise Unavailable(f"the broker cannot be reached: {error}") from error
    return _wait(request.id, host, timedelta(seconds=ANSWER_TIMEOUT_S))


def _wait(request_id: int, host: str, patience: timedelta) -> Document:
    deadline = time.monotonic() + patience.total_seconds()
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        with transaction() as session:
            request = session.get_one(HostRequest, request_id)
        if request.state is RequestState.ANSWERED and request.reply is not None:
            return request.reply
        if request.state in {RequestState.REFUSED, RequestState.FAILED}:
            raise PreconditionFailed((request.reply or {}).get("error", "no reason given"))
    raise Unavailable(f"host {host} did not answer within {patience.total_seconds():g} s: is its worker busy?")
