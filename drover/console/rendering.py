"""HTML from templates. Whatever is shown is escaped: as HTML, and so that nothing in it acts or pretends."""

import re
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from drover.console.choices import button
from drover.escaping import escaped
from drover.views.serializers import public
from drover.words import ago, count, duration, rate, size, span
from workflows.selectors import shown

CODE = re.compile("`([^`]+)`")


def page(request: Request, template: str, *, status: int = 200, **shown: Any) -> HTMLResponse:
    """One page."""
    person = getattr(request.state, "person", None)
    signed_in = person is not None and request.app.state.signed_in is not None
    common = {"path": request.url.path, "query": request.query_params, "person": person, "signed_in": signed_in}
    text = ENVIRONMENT.get_template(template).render(**common, **shown)
    return HTMLResponse(text, status)


def _finalized(value: object) -> object:
    return value if isinstance(value, Markup | int | float) else "" if value is None else escaped(value)


def _told(sentence: str | None) -> Markup:
    """Without secrets; what is to be entered, in backticks, as code."""
    safe = str(escape(escaped(public(sentence) or "")))
    return Markup(CODE.sub(r"<code>\1</code>", safe))  # noqa: S704 # nosec B704 # it was escaped the line before


def _lines(text: str) -> Markup:
    """What a program has printed, in its lines."""
    return Markup("\n").join(escaped(line) for line in text.splitlines())


def _clock(at: datetime | None, after: datetime | None = None) -> str:
    """The hour alone, if it is beside a time of the same day."""
    if at is None:
        return ""
    at = at.astimezone(UTC)
    if after is not None and at.date() == after.astimezone(UTC).date():
        return f"{at:%H:%M:%S}"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _ago(at: datetime | None, now: datetime) -> str:
    return "" if at is None else ago(at, now)


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} ms"


def _words(name: object) -> str:
    return str(name).replace("_", " ")


ENVIRONMENT = Environment(
    loader=ChoiceLoader([PackageLoader("drover.console"), PackageLoader("drover.console", "static")]),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_finalized,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.globals["person"] = None  # a report is looked at by whoever has it
ENVIRONMENT.filters |= {
    "rate": rate,
    "size": size,
    "span": span,
    "duration": duration,
    "clock": _clock,
    "ago": _ago,
    "milliseconds": _milliseconds,
    "button": button,
    "told": _told,
    "lines": _lines,
    "words": _words,
    "labels": shown,
    "count_of": count,
}
