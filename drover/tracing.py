"""One trace for each move, from its submission to RESUME, if OpenTelemetry is configured; otherwise nothing is loaded.

The trace is kept with the job, as W3C `traceparent`: the span of a step is a child of it, in whatever process and
attempt the step runs. A span that a process did not end before it died is not in the trace.

Messages carry the same text in their header `traceparent`, which is where opentelemetry-instrumentation-celery looks
and puts it: a sender that uses it finds its move in its own trace. Here it is not used. A step's message may come
twice, late or again, so the row says where its span belongs; and a publication that fails leaves the span of 0.66b2
open and current in its thread, as does one by name of a task that is not registered at the sender.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from drover import logs

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

HEADER = "traceparent"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTER = "OTEL_TRACES_EXPORTER"
TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"
TIMEOUT_S = 2.0
"""For a batch of spans, with all retries. A command that ends waits twice as long for an unreachable collector."""


class Span:
    """A span, or nothing where traces are not configured."""

    def __init__(self, span: "OtelSpan | None" = None) -> None:
        self._span = span

    def set(self, **attributes: object) -> None:
        """Set attributes of the span."""
        if self._span is not None:
            self._span.set_attributes(_named(attributes))

    def failed(self, why: str) -> None:
        """Mark the span as failed."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, logs.masked(why)))

    @property
    def traceparent(self) -> str | None:
        """The text by which later spans, also of other processes, become its children."""
        if self._span is None:
            return None
        from opentelemetry.trace import set_span_in_context

        return _written(set_span_in_context(self._span))


class _Reporting:
    """An exporter of spans that logs one line for an outage of the collector, not one for each retry."""

    def __init__(self, exporter: "SpanExporter") -> None:
        self._exporter, self._away = exporter, False
        self.shutdown, self.force_flush = exporter.shutdown, exporter.force_flush
        if not log.isEnabledFor(logging.DEBUG):
            logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
        """Send them; what the collector does not take is lost."""
        result = self._exporter.export(spans)
        if result.value and not self._away:
            log.warning("the collector of traces takes no spans: they are lost until it does, moves go on")
        self._away = bool(result.value)
        return result


@contextmanager
def span(name: str, parent: str | None = None, **attributes: object) -> Iterator[Span]:
    """A span for the time of a `with` block; without a parent it is a child of the present one, if there is one."""
    tracer = _tracer()
    if tracer is None:
        yield Span()
        return
    with tracer.start_as_current_span(
        name,
        context=_read(parent),
        attributes=_named(attributes),
        record_exception=False,  # its text could hold a secret; `failed` has a safe text
        set_status_on_exception=False,
    ) as begun:
        yield Span(begun)


@contextmanager
def child(name: str, **attributes: object) -> Iterator[Span]:
    """A span if there is one that it belongs to."""
    if not headers():
        yield Span()
        return
    with span(name, None, **attributes) as begun:
        yield begun


@contextmanager
def below(parent: str | None) -> Iterator[None]:
    """For the time of a `with` block spans are children of this one, which a message has brought."""
    if parent is None or _tracer() is None:
        yield
        return
    from opentelemetry import context

    token = context.attach(_read(parent) or context.get_current())
    try:
        yield
    finally:
        context.detach(token)


def record(name: str, parent: str | None, begun: float, ended: float, **attributes: object) -> str | None:
    """Record a span of the past, between two moments in seconds since 1970; returns its `traceparent`."""
    tracer = _tracer()
    if tracer is None or parent is None:
        return None
    past = tracer.start_span(name, context=_read(parent), attributes=_named(attributes), start_time=_ns(begun))
    past.end(_ns(ended))
    return Span(past).traceparent


def headers() -> dict[str, str]:
    """Headers of a message that make its task a child of the present span."""
    if _tracer() is None or (here := _written(None)) is None:
        return {}
    return {HEADER: here}


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Traces are configured, by OpenTelemetry's own variables."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get(EXPORTER) == "none":
        return False
    return environment.get(EXPORTER) == "otlp" or any(environment.get(name) for name in ENDPOINTS)


@cache
def _tracer() -> "Tracer | None":
    """Made at first use. It sends its last spans when the process ends."""
    if not wanted():
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("OpenTelemetry is configured but not installed, so there are no traces: install `drover[otel]`")
        return None
    ours = {"service.name": "drover", "host.name": os.environ.get("DROVER_HOST") or os.uname().nodename}
    provider = TracerProvider(resource=Resource.create(ours).merge(OTELResourceDetector().detect()))
    timeout_s = None if os.environ.get(TIMEOUT) else TIMEOUT_S
    provider.add_span_processor(BatchSpanProcessor(_Reporting(OTLPSpanExporter(timeout=timeout_s))))  # type: ignore[arg-type]
    return provider.get_tracer("drover")


def _read(traceparent: str | None) -> "Context | None":
    if traceparent is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({HEADER: traceparent})


def _written(context: "Context | None") -> str | None:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, context)
    return carrier.get(HEADER)


def _named(attributes: Mapping[str, object]) -> dict[str, Any]:
    """Under names of ours; OpenTelemetry refuses None."""
    return {f"drover.{name}": value for name, value in attributes.items() if value is not None}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
