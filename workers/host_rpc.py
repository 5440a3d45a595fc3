"""Questions that only this host can answer. Answering changes nothing here, but for those whose names say so."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from drover import logs, tracing
from drover.errors import DroverError, HostRefused, PreconditionFailed, Unavailable
from drover.settings import Settings
from models import host
from models.contracts import Versioned
from models.database import transaction
from models.host import HostRequest, RequestState
from models.host_rpc import Refusal, read_question
from workers import orphans
from workers.guest import probe
from workers.launcher import cold
from workers.preflight import destination_check, inspection, qemu_scan

log = logging.getLogger(__name__)

ANSWERS: dict[str, Callable[[Any, Settings], Coroutine[Any, Any, Versioned]]] = {
    "collect_garbage": orphans.collect,
    "find_qemus": qemu_scan.find_qemus,
    "garbage": orphans.look,
    "inspect": inspection.inspect,
    "look_for_guest": cold.look,
    "observe": probe.observe,
    "plan_destination": destination_check.plan_destination,
    "start_guest": cold.start,
    "stop_guest": cold.stop,
}


def answer(request_id: int, settings: Settings) -> None:
    """Look, and write the answer into the request's row. Doing so twice does no harm."""
    with transaction() as session:
        request = session.get(HostRequest, request_id)
    if request is None or request.host != settings.host or request.state is not RequestState.ASKED:
        return
    question = request.question
    with (
        logs.about(guest=question.get("guest"), job=question.get("job_id")),
        tracing.child(request.kind, host=settings.host),
    ):
        state, reply = _ask(request, settings)
        log.debug("answers %s: %s", request.kind, state)
    with transaction() as session:
        host.reply(session, request_id, state, reply)


def _ask(request: HostRequest, settings: Settings) -> tuple[RequestState, Versioned]:
    try:
        question = read_question(request.kind, request.question)
        return RequestState.ANSWERED, asyncio.run(ANSWERS[request.kind](question, settings))
    except HostRefused as error:
        return RequestState.REFUSED, Refusal(error=str(error), checks=error.checks)
    except PreconditionFailed as error:
        return RequestState.REFUSED, Refusal(error=str(error), later=isinstance(error, Unavailable))
    except DroverError as error:
        return RequestState.FAILED, Refusal(error=f"{settings.host}: {error}")
    except Exception as error:
        log.exception("cannot answer %s; nothing was changed", request.kind)
        return RequestState.FAILED, Refusal(error=f"{settings.host}: {type(error).__name__}: {error}")
