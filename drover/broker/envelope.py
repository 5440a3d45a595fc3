"""What a message must look like before Celery sees it: whoever may write to Redis can put any bytes into a queue.

Kombu and Celery read headers and properties without a look at their types, in the worker's main thread: one wrong value
ends the worker, and the message, which was delivered already, comes back at every start.
"""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from celery.utils.time import maybe_iso8601
from kombu.utils.json import loads

LONGEST = 1 << 20
"""Bytes of a message; ours have a few thousand."""
DEEPEST = 50
"""Levels of a message; a chain nests each link in a few."""
EXCERPT = 200


def fault(raw: bytes, *, chained: bool = True) -> str | None:
    """Why this is no message for a process of Drover, or None if it is one.

    Args:
        raw: what was taken from a queue.
        chained: it may have more tasks to be sent once it is done. Who takes it sends them, so that whoever put it
            there reaches the queues that this process reaches.
    """
    if len(raw) > LONGEST:
        return f"it has {len(raw)} bytes, more than {LONGEST}"
    try:
        message = _read(raw)
        wrong = _wrong(message, ENVELOPE) or _wrong(message["properties"], PROPERTIES)
        return wrong or _wrong(message["headers"], HEADERS) or _of_body(message, chained=chained)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        return f"it cannot be read: {type(error).__name__}: {error}"


def excerpt(raw: bytes) -> str:
    """Its beginning, in one line of printable characters."""
    text = ascii(raw[:EXCERPT])
    return text if len(raw) <= EXCERPT else f"{text} and {len(raw) - EXCERPT} bytes more"


def _read(raw: bytes) -> Any:
    text = raw.decode()
    _check(json.loads(text))
    return loads(text)  # kombu's own decoder, which converts some values


def _check(value: Any) -> None:
    """Refuse a value that is too deep, or has halves of characters, which cannot be written back to Redis."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is more than {DEEPEST} levels deep")
        below = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list))]
        level = [part for parts in below for part in parts]
    json.dumps(value, ensure_ascii=False).encode()


def _of_body(message: Mapping[str, Any], *, chained: bool) -> str | None:
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body, validate=True).decode()
    match _read(body.encode()):
        case [list(), dict(), dict() as embedded]:
            return _wrong(embedded, EMBEDDED) or _not_sent_on(embedded, () if chained else ("chain",))
        case _:
            return "its body is not [arguments, named arguments, embedded]"


def _not_sent_on(embedded: Mapping[str, Any], more: tuple[str, ...]) -> str | None:
    found = next((name for name in (*NEVER_SENT_ON, *more) if embedded.get(name)), None)
    return None if found is None else f"it has tasks to be sent afterwards ({found}), which are not sent from here"


Fits = Callable[[Any], bool]


def _wrong(values: Any, wanted: Mapping[str, Fits]) -> str | None:
    if not isinstance(values, dict):
        return f"{type(values).__name__} where a mapping is wanted"
    wrong = (name for name, fits in wanted.items() if not fits(values.get(name)))
    return next((f"its {name} is {_short(values.get(name))}" for name in wrong), None)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is(*kinds: type) -> Fits:
    return lambda value: isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)


def _or_none(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


def _moment(value: Any) -> bool:
    """A point in time as Celery writes it; a few processes of the past sent seconds to live."""
    return maybe_iso8601(value) is not None if isinstance(value, str) else _is(int, float)(value)


def _limits(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_or_none(_is(int, float)), value))


def _signatures(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) and isinstance(one.get("task"), str) for one in value)


def _name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 255


def _address(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("exchange", "routing_key"))


ENVELOPE: Mapping[str, Fits] = {
    "body": _is(str),
    "headers": _is(dict),
    "properties": _is(dict),
    "content-type": lambda value: value == "application/json",
    "content-encoding": lambda value: value == "utf-8",
}
PROPERTIES: Mapping[str, Fits] = {
    "delivery_tag": _name,
    "delivery_info": _address,
    "delivery_mode": _or_none(_is(int)),
    "priority": _or_none(_is(int)),
    "body_encoding": lambda value: value is None or value == "base64",
    "correlation_id": _or_none(_is(str)),
    "reply_to": _or_none(_is(str)),
}
TEXTS = ("root_id", "parent_id", "group", "shadow", "argsrepr", "kwargsrepr", "origin", "lang", "meth", "compression")
HEADERS: Mapping[str, Fits] = {
    "task": lambda value: (
        _name(value) and value.startswith("drover.")
    ),  # those of Celery's own send what they are given
    "id": _name,
    **dict.fromkeys(TEXTS, _or_none(_is(str))),
    "eta": lambda value: value is None,  # it would wait in the memory of who takes it; a submission has `at`
    "expires": _or_none(_moment),
    "retries": _or_none(_is(int)),
    "timelimit": _or_none(_limits),
    "group_index": _or_none(_is(int)),
    "ignore_result": _or_none(_is(bool)),
    "replaced_task_nesting": _or_none(_is(int)),
    "stamped_headers": _or_none(_is(list)),
    "stamps": _or_none(_is(dict)),
    "headers": _or_none(_is(dict)),
    "delivery_info": _or_none(_is(dict)),
    "redelivered": _or_none(_is(bool)),
}
NEVER_SENT_ON = ("callbacks", "errbacks", "chord")
"""Nothing of Drover uses these."""
EMBEDDED: Mapping[str, Fits] = {
    "callbacks": _or_none(_signatures),
    "errbacks": _or_none(_signatures),
    "chain": _or_none(_signatures),
    "chord": _or_none(_is(dict)),
}
