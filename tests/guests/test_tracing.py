"""One OpenTelemetry trace for each move, received as a collector would; and nothing of it where nobody asks for it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from sqlalchemy import select

from lab import fleet
from models.database import transaction
from models.job import DOWNTIME_PHASES, Job
from tests import labs
from tests.helpers import Moves, next_heartbeat, stop, until
from tests.tokens import Token
from workers.process import environment, processes
from workers.switchover import trace
from workflows.migration.links import LINKS

DROVER = str(Path(sys.executable).with_name("drover"))


@dataclass
class Collector:
    """Takes traces by OTLP over HTTP."""

    spans: list[Span] = field(default_factory=list)
    url: str = ""

    def of(self, trace_id: bytes) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def named(self, name: str, job: int) -> list[Span]:
        return [span for span in self.spans if span.name == name and attributes(span).get("drover.job") == job]


def attributes(span: Span) -> dict[str, object]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = ExportTraceServiceRequest()
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.ParseFromString(body)
            assert self.path == "/v1/traces"
            collector.spans += [
                span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans
            ]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def variables(collector: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Moves]:
    """A lab whose workers and controller send traces; this process does not."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables(collector).items():
            patch.setenv(name, value)
        with labs.temporary(prefix="dt") as lab:
            for name in variables(collector):
                patch.delenv(name)
            moves = Moves(lab)
            yield moves
            moves.end()


def command(traced: Moves, collector: Collector, *words: str) -> None:
    known = {"PATH": "/usr/bin:/bin", **traced.lab.environment, **variables(collector)}
    done = subprocess.run([DROVER, *words], env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def newest(guest: str) -> Job | None:
    """The job that moves this guest, once there is one."""
    with transaction() as session:
        return session.scalar(select(Job).where(Job.guest == guest).order_by(Job.id.desc()).limit(1))


def submitted(guest: str) -> Job:
    job = newest(guest)
    assert job is not None
    return job


@pytest.mark.thorough
@pytest.mark.guests
@pytest.mark.xdist_group("test_tracing")
class TestARealMove:
    def test_is_one_trace_from_its_submission_to_resume(self, traced: Moves, collector: Collector) -> None:
        guest = traced.boot()
        command(traced, collector, "migrate", guest, "--to", "host-b", "--wait")
        job = submitted(guest)
        traced.done(job)
        until("the last step has come", lambda: len(collector.named("cleanup", job.id)) == 2)
        [submit] = collector.named("submit", job.id)
        spans = collector.of(submit.trace_id)
        assert not submit.parent_span_id
        steps = [span for span in spans if attributes(span).get("drover.attempt")]
        in_order = sorted(steps, key=lambda span: span.start_time_unix_nano)
        assert [span.name for span in in_order] == [name for name, _ in LINKS]
        hosts = {"source": "host-a", "destination": "host-b"}
        for span in steps:
            about = attributes(span)
            assert span.parent_span_id == submit.span_id
            assert (about["drover.guest"], about["drover.outcome"]) == (guest, "done")
            assert about["drover.host"] == hosts[str(about["drover.side"])]
            assert span.status.code != Status.STATUS_CODE_ERROR
        asked = {span.name: span for span in spans if span.name in {"inspect", "plan_destination"}}
        assert {span.parent_span_id for span in asked.values()} == {submit.span_id}
        assert len(asked) == 2
        self._downtime_is_there(job, submit, spans)

    def _downtime_is_there(self, job: Job, submit: Span, spans: list[Span]) -> None:
        [downtime] = [span for span in spans if span.name == "downtime"]
        assert downtime.parent_span_id == submit.span_id
        assert job.downtime is not None
        ms = (downtime.end_time_unix_nano - downtime.start_time_unix_nano) / 1e6
        assert ms == pytest.approx(job.downtime.ms, abs=0.1)
        assert downtime.start_time_unix_nano == pytest.approx((job.downtime.stopped_at or 0) * 1e9, abs=1e5)
        phases = [span for span in spans if span.parent_span_id == downtime.span_id]
        assert {span.name for span in phases} == set(DOWNTIME_PHASES)
        ends = {span.name: span.end_time_unix_nano for span in phases}
        assert ends["resume"] == pytest.approx(downtime.end_time_unix_nano, abs=1e5)
        inside = range(downtime.start_time_unix_nano - 10**6, downtime.end_time_unix_nano + 10**6)
        assert all(span.start_time_unix_nano in inside and span.end_time_unix_nano in inside for span in phases)

    def test_belongs_to_the_trace_of_who_sent_the_task(self, traced: Moves, collector: Collector) -> None:
        guest = traced.boot()
        asked = {"guest": guest, "to": "host-b", "idempotency_key": f"traced {guest}"}
        asked = Token().signed("drover.job.submit", asked)
        sent = subprocess.run(
            [sys.executable, "-c", SENDER, traced.lab.environment["DROVER_BROKER_URL"], json.dumps(asked)],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
        )
        trace_id = bytes.fromhex(sent.stdout.strip())
        job = until("the job is there", lambda: newest(guest))
        traced.done(traced.ended(job.id))
        until("the last step has come", lambda: len(collector.named("cleanup", job.id)) == 2)
        [submit] = collector.named("submit", job.id)
        assert submit.trace_id == trace_id
        assert submit.parent_span_id
        assert {span.trace_id for span in collector.named("cleanup", job.id)} == {trace_id}

    def test_says_in_the_log_which_trace_it_is(self, traced: Moves, collector: Collector) -> None:
        guest = traced.boot()
        command(traced, collector, "migrate", guest, "--to", "host-b", "--hold")
        job = submitted(guest)
        assert job.traceparent is not None
        [submit] = until("it was submitted", lambda: collector.named("submit", job.id))
        assert job.traceparent.split("-")[1:3] == [submit.trace_id.hex(), submit.span_id.hex()]
        command(traced, collector, "job", "cancel", str(job.id))
        traced.ended(job.id)
        until("the first step is rolled back", lambda: collector.named("rollback prepare_dest_image", job.id))
        [stopped] = until("a step was cancelled", lambda: self._failed(collector, job.id))
        assert attributes(stopped)["drover.outcome"] == "cancelled"
        assert stopped.parent_span_id == submit.span_id

    def _failed(self, collector: Collector, job: int) -> list[Span]:
        return [span for span in collector.spans if span.status.code and attributes(span).get("drover.job") == job]


SENDER = """
import json, sys
from celery import Celery
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider

trace.set_tracer_provider(TracerProvider())
CeleryInstrumentor().instrument()
scheduler = Celery(broker=sys.argv[1])
with trace.get_tracer("scheduler").start_as_current_span("maintenance") as span:
    scheduler.send_task("drover.job.submit", kwargs=json.loads(sys.argv[2]), queue="drover.control")
    print(f"{span.get_span_context().trace_id:032x}")
"""


@pytest.mark.thorough
@pytest.mark.guests
def test_without_configuration_a_worker_loads_nothing_of_it(moves: Moves) -> None:
    lab = moves.lab
    [worker] = processes.find(lab.mark("worker-host-a"))
    log = lab.logs / "host-a.log"
    stop(worker)
    begun = log.stat().st_size
    process = fleet.start_worker(lab, lab.host("host-a"), PYTHONPROFILEIMPORTTIME="1")
    try:
        next_heartbeat("host-a")
        guest = moves.boot()
        moves.done(moves.move(guest, "host-b"))
        imported = log.read_bytes()[begun:].decode()
        assert "import time:" in imported
        assert "workers.executor" in imported
        # redis-py loads OpenTelemetry's metrics wherever they are installed, and with them what they need
        for part in ("sdk.trace", "exporter", "trace.propagation.tracecontext"):
            assert f"opentelemetry.{part}" not in imported
    finally:
        stop(process)
        fleet.start_worker(lab, lab.host("host-a"))
        next_heartbeat("host-a")


def _said(code: str, **more: str) -> str:
    known = {"PATH": "/usr/bin:/bin", **more}
    done = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_configured_but_not_installed_is_said_once() -> None:
    code = """
import sys
sys.modules["opentelemetry.sdk.trace"] = None
from drover import logs, tracing
logs.configure("host-a")
for _ in range(3):
    with tracing.span("x") as span:
        assert span.traceparent is None
        span.set(a=1)
        span.failed("why")
"""
    said = _said(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert said.count("install `drover[otel]`") == len(said.splitlines()) == 1


def test_a_collector_that_is_away_costs_one_line_and_holds_nothing_up() -> None:
    code = """
import time
from drover import logs, tracing
logs.configure("host-a")
with tracing.span("the first one loads what it needs"):
    pass
begun = time.monotonic()
for _ in range(3):
    with tracing.span("x"):
        pass
    time.sleep(0.3)
assert time.monotonic() - begun < 2
"""
    begun = time.monotonic()
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    said = _said(code, **away)
    assert time.monotonic() - begun < 15, "it waits for the collector for ever"
    assert len(said.splitlines()) == 1, said
    assert "moves go on" in said


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_it_is_switched_off_by_opentelemetrys_own_variables(off: dict[str, str]) -> None:
    code = """
import sys
from drover import tracing
with tracing.span("x") as span:
    assert span.traceparent is None
assert not any(name.startswith("opentelemetry") for name in sys.modules)
"""
    _said(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **off)


def test_the_switchover_processes_do_not_even_load_our_part_of_it() -> None:
    _said("""
import sys
import workers.switchover.__main__
assert "drover.logs" in sys.modules
assert not {"drover.tracing", "drover.settings", "celery"} & set(sys.modules), sorted(sys.modules)
""")


def test_programs_that_a_worker_starts_do_not_get_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert not any(name.startswith("OTEL_") for name in environment.handed_on())


def test_the_phases_of_the_downtime_follow_each_other_from_stop_to_resume() -> None:
    phases = {"stop": 10.0, "mirror_end": 5.0, "device_state": 5.0, "check": 1.0, "resume": 4.0, "messages": 5.0}
    spans = trace.spans(phases, 100.0, 100.03)
    placed = {name: (round(1000 * (begun - 100)), round(1000 * (ended - 100))) for name, begun, ended in spans}
    assert placed == {
        "stop": (0, 10),
        "mirror_end": (10, 15),
        "device_state": (15, 20),
        "messages": (20, 25),
        "check": (25, 26),
        "resume": (26, 30),
    }
