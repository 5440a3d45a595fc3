"""Asks whether guests may be moved now: a program of the control node, or an address by a signed POST.

A few threads beside everything else ask; each question is bounded in time and size as a whole. A question that was lost
with its controller is asked anew, see `workflows.drain.notices`.
"""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Literal

from pydantic import Field, ValidationError
from sqlalchemy import select

from drover import webhooks, words
from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.contracts import Part, first_fault
from models.database import transaction
from models.documents import Hook, Moment
from models.notice import Answer, GuestNotice
from workers import programs
from workflows.addresses import in_time
from workflows.drain import notices
from workflows.roll import hooks

log = logging.getLogger(__name__)

PARALLEL = 8
LARGEST = 1 << 14
"""Bytes of an answer that are read."""
LONGEST = 300
"""Characters of a reason that are kept."""
NO = 1
"""The status by which a program says no."""

_under_way: set[int] = set()
"""Questions that threads of this process are asking."""
_lock = threading.Lock()


class Reply(Part):
    """What is answered, as JSON."""

    answer: Literal["yes", "no"]
    reason: str | None = Field(default=None, max_length=1 << 12)
    not_before: Moment | None = None
    """It is not asked again before."""


def tick(ours: Settings) -> None:
    """Hand questions to threads of their own, as many as are free. The others wait in their rows."""
    with _lock, transaction() as session:
        due = select(GuestNotice).where(notices.unanswered(), GuestNotice.id.not_in(_under_way))
        rows = session.scalars(due.order_by(GuestNotice.id).limit(PARALLEL - len(_under_way))).all()
    for row in rows:
        _under_way.add(row.id)
        _pool().submit(_ask, row, ours)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(PARALLEL, thread_name_prefix="notice")


def _ask(row: GuestNotice, ours: Settings) -> None:
    """Runs in a thread of the pool: exceptions are logged here, because no caller receives them."""
    try:
        ask(row, ours)
    except Exception:
        log.exception("what %s answers about %s could not be written: it is asked again", row.notice, row.guest)
    finally:
        with _lock:
            _under_way.discard(row.id)


def ask(row: GuestNotice, ours: Settings) -> None:
    """Ask once, and write down the answer."""
    try:
        told = in_time(_answer(row, ours), row.notice.deadline_s)
    except TimeoutError:
        notices.answer(row.id, Answer.NONE, f"it gave no answer within {words.duration(row.notice.deadline_s)}")
    except Exception as error:
        notices.answer(row.id, Answer.NONE, _short(str(error) or type(error).__name__))
    else:
        notices.answer(row.id, Answer(told.answer), _short(told.reason), told.not_before)


async def _answer(row: GuestNotice, ours: Settings) -> Reply:
    question = {
        "version": 1,
        "event": "guest.may_move",
        "notice": row.id,
        "guest": row.guest,
        "source": row.source,
        "destination": row.destination,
        "drain": row.drain_id,
        "deadline_s": row.notice.deadline_s,
    }
    body = json.dumps(question)
    return await (_by_program if row.notice.program else _by_post)(row, body, ours)


async def _by_post(row: GuestNotice, body: str, ours: Settings) -> Reply:
    message = f"notice_{row.id}_{row.asked_at:%Y%m%dT%H%M%S%f}"
    limit_s = row.notice.deadline_s
    status, said = await webhooks.send(row.notice.url or "", message, body, ours, timeout_s=limit_s, most_bytes=LARGEST)
    if status != 200:
        raise PreconditionFailed(f"it answered {status}")
    return _read(said)


async def _by_program(row: GuestNotice, body: str, ours: Settings) -> Reply:
    """Status 0 is yes, 1 is no, with what it said as the reason or a reply as JSON."""
    program = hooks.program(Hook(argv=row.notice.program), ours)
    told = {"DROVER_GUEST": row.guest, "DROVER_SOURCE": row.source, "DROVER_DESTINATION": row.destination}
    ended = await programs.run(
        program, *row.notice.program[1:], environment=told, told=body.encode(), timeout_s=row.notice.deadline_s
    )
    if ended.status == NO and ended.said.startswith("{"):
        return _read(ended.said.encode())
    if ended.status not in {0, NO}:
        raise PreconditionFailed(f"it {ended.how}")
    return Reply(answer="yes") if ended.ok else Reply(answer="no", reason=ended.said)


def _read(said: bytes) -> Reply:
    try:
        return Reply.model_validate_json(said)
    except ValidationError as error:
        raise PreconditionFailed(f"its answer is not understood: {first_fault(error)}") from error


def _short(text: str | None) -> str | None:
    printable = "".join(letter if letter.isprintable() else " " for letter in text or "")
    return printable.strip()[:LONGEST] or None
