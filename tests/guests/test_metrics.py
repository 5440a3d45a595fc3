"""The metrics of the fleet, and that dashboards and alert rules use no others."""

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kombu import Queue
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, text

from drover import metrics
from drover.broker.app import UNROUTED_QUEUE, app
from drover.errors import PreconditionFailed
from drover.metrics import collector, counters, families
from drover.metrics.builders import Family
from drover.metrics.collector import Fleet
from drover.settings import settings
from lab import services
from lab.cli import metrics_url
from lab.directory import Lab
from lab.fleet import free_port
from models.database import transaction
from models.documents import Downtime, Estimate, Health, Hook, RamProgress, Window
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.guest import Guest
from models.job import Attempt, Job, JobState, StepState
from models.storage import Storage
from models.transitions import JobEvent
from tests import factories
from tests.cli.test_help import every_command
from tests.factories import happens
from tests.helpers import until
from workflows import fleet_limits, guests
from workflows.roll import commands as rolls
from workflows.roll.commands import RollRequest

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules" / "moves.yml"

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str) -> dict[Sample, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scrape:
    """What a controller that stands by would answer now."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Fleet(settings(), leading=lambda: False))

    def __call__(self, name: str, **labels: str) -> float | None:
        return samples(generate_latest(self.registry).decode()).get((name, frozenset(labels.items())))


def counted() -> dict[Sample, float]:
    """What a controller that was just started counts."""
    registry = CollectorRegistry()
    registry.register(Fleet(settings(), leading=lambda: False))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        if family.type in {"counter", "histogram"}
        for sample in family.samples
    }


@pytest.fixture
def fleet(database: None) -> Scrape:
    """Three hosts, one of them silent; four guests, two of them under way."""
    factories.host("hv1")
    factories.host("hv2")
    factories.host("dead", heartbeat_at=datetime.now(UTC) - timedelta(minutes=5))
    for name in ("web", "db", "mail", "old"):
        factories.guest(name, "hv1")
    factories.job("web", "hv2", state=JobState.RUNNING)
    factories.job("db", "dead", state=JobState.NEEDS_OPERATOR)
    factories.job("mail", "hv2")
    return Scrape()


def end(job_id: int, downtime_ms: float, ago_s: float) -> None:
    """A job that moved its guest so long ago."""
    counters = datetime.now(UTC) - timedelta(seconds=ago_s)
    with transaction() as session:
        job = session.get_one(Job, job_id)
        job.state, job.finished_at, job.ram = JobState.DONE, counters, RamProgress(transferred=3_000_000_000)
        job.downtime = Downtime(ms=downtime_ms)
        job.disks[0].bytes_copied = 7_000_000_000
        for step in job.steps:
            step.state = StepState.DONE
            session.add(
                Attempt(
                    job_id=job_id,
                    token=step.seq,
                    seq=step.seq,
                    direction="do",
                    owner="x",
                    started_at=counters - timedelta(seconds=2),
                    ended_at=counters,
                    outcome="done",
                )
            )


def storage(host: str, seen_at: Any) -> None:
    with transaction() as session:
        row = Storage(host=host, name="guests", driver="folder", place="/", total_bytes=10**12, free_bytes=10**9)
        row.seen_at = seen_at
        session.add(row)


def trouble(guest: str, **columns: Any) -> None:
    """Something is wrong with this guest."""
    with transaction() as session:
        row = session.get_one(Guest, guest)
        for name, value in columns.items():
            setattr(row, name, value)


def test_a_guest_that_is_gone_or_runs_twice_is_told_by_its_name(fleet: Scrape) -> None:
    assert fleet("drover_guests", state="running") == 4
    trouble("old", gone_at=func.now())
    assert fleet("drover_guest_trouble", guest="old", host="hv1", state="gone") == 1
    assert fleet("drover_guests", state="gone") == 1


def arrived_unwell(guest: str, job_id: int) -> None:
    """It lives where the job has brought it, and its check failed there."""
    with transaction() as session:
        job = session.get_one(Job, job_id)
        job.health, job.way_back_needed = Health(finished=True, problems=("it is io-error",)), True
        session.get_one(Guest, guest).host = job.destination


def test_a_guest_whose_check_failed_after_its_move_is_told_with_the_job(fleet: Scrape) -> None:
    job = factories.job("old", "hv2", state=JobState.DONE)
    arrived_unwell("old", job)
    assert fleet("drover_guest_unwell", guest="old", host="hv2", job_id=str(job), reason="check") == 1


def test_jobs_and_hosts_are_told_as_they_are(fleet: Scrape) -> None:
    assert fleet("drover_jobs", state="queued") == 1
    assert fleet("drover_jobs", state="running") == 1
    assert fleet("drover_jobs", state="needs_operator") == 1
    assert fleet("drover_jobs", state="rolling_back") == 0
    assert fleet("drover_host_up", host="hv1") == 1
    assert fleet("drover_host_up", host="dead") == 0
    assert fleet("drover_host_guests", host="hv1") == 4
    assert fleet("drover_host_state", host="hv1", state="active") == 1
    assert fleet("drover_leading") == 0


def test_the_room_of_a_storage_is_told_while_its_worker_reports_it(fleet: Scrape) -> None:
    storage("hv1", func.now())
    storage("dead", func.now() - timedelta(hours=1))
    assert fleet("drover_storage_free_bytes", host="hv1", storage="guests") == 10**9
    assert fleet("drover_storage_low", host="hv1", storage="guests") == 1
    assert fleet("drover_storage_low", host="dead", storage="guests") is None


def test_a_job_that_stands_still_is_told_with_its_guest_step_and_host(fleet: Scrape) -> None:
    with transaction() as session:
        job = session.query(Job).filter_by(guest="web").one()
        job.progress_at = job.steps[0].next_at = func.now() - timedelta(minutes=10)
        at = {"guest": "web", "job_id": str(job.id)}
    age = fleet("drover_job_step_age_seconds", state="running", step="prepare_dest_image", host="hv2", **at)
    assert age == pytest.approx(600, abs=30)
    assert fleet("drover_job_moved_bytes", **at) == 0
    assert fleet("drover_queue_age_seconds", host="hv2") == pytest.approx(600, abs=30)
    assert fleet("drover_queue_age_seconds", host="hv1") == 0


def test_what_has_ended_is_counted_once_and_by_every_controller_alike(fleet: Scrape) -> None:
    end(factories.job("old", "hv2", state=JobState.RUNNING), downtime_ms=42, ago_s=60)
    for asked in (fleet, fleet, Scrape()):
        assert asked("drover_jobs_ended_total", state="done") == 1
        assert asked("drover_moved_bytes_total", what="disks") == 7_000_000_000
        assert asked("drover_moved_bytes_total", what="ram") == 3_000_000_000
        assert asked("drover_downtime_seconds_bucket", le="0.03") == 0
        assert asked("drover_downtime_seconds_bucket", le="0.05") == 1
        assert asked("drover_downtime_seconds_sum") == pytest.approx(0.042)
    labels = {"step": "mirror_disks", "side": "source", "direction": "do", "outcome": "done"}
    assert fleet("drover_step_duration_seconds_bucket", le="1", **labels) == 0
    assert fleet("drover_step_duration_seconds_bucket", le="2.5", **labels) == 1


def test_what_ended_after_the_last_look_is_added_at_once_and_is_not_lost_to_a_clock_that_is_late(fleet: Scrape) -> None:
    assert fleet("drover_downtime_seconds_count") == 0
    for name, ago_s in (("old", 0), ("late", 600), ("early", -600)):
        if name != "old":
            factories.guest(name, "hv1")
        end(factories.job(name, "hv2", state=JobState.RUNNING), downtime_ms=42, ago_s=ago_s)
    for asked in (fleet, fleet, Scrape()):
        assert asked("drover_downtime_seconds_count") == 3


def test_what_has_settled_is_counted_once(fleet: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    end(factories.job("old", "hv2", state=JobState.RUNNING), downtime_ms=42, ago_s=30)
    assert fleet("drover_downtime_seconds_count") == 1
    monkeypatch.setattr(counters, "SETTLED", timedelta(seconds=10))
    for _ in range(3):
        assert fleet("drover_downtime_seconds_count") == 1


def test_a_counter_does_not_go_back_when_an_operator_lets_a_job_go_on(fleet: Scrape) -> None:
    with transaction() as session:
        session.query(Job).filter_by(guest="db").one().finished_at = datetime.now(UTC) - timedelta(minutes=1)
    before = counted()
    with transaction() as session:
        happens(session, session.query(Job).filter_by(guest="db").one(), JobEvent.GO_FORWARD)
    after = counted()
    assert {name: after.get(name, 0.0) for name in before} == before


@pytest.fixture
def drain(fleet: Scrape) -> Drain:
    """It has run for an hour, and has one guest left to move."""
    with transaction() as session:
        made = Drain(kind=DrainKind.DRAIN, host="hv1", state=DrainState.RUNNING)
        made.started_at = func.now() - timedelta(hours=1)
        made.guests = [
            DrainGuest(guest="web", position=1, state=GuestState.WAITING, source="hv1"),
            DrainGuest(guest="db", position=2, state=GuestState.MOVED, source="hv1"),
        ]
        session.add(made)
    return made


def of(drain: Drain) -> dict[str, str]:
    return {"drain": str(drain.id), "kind": "drain", "host": "hv1"}


def test_a_drain_is_told_with_its_guests_and_for_how_long_it_has_stood_still(fleet: Scrape, drain: Drain) -> None:
    assert fleet("drover_drain_guests", state="waiting", **of(drain)) == 1
    assert fleet("drover_drain_guests", state="moved", **of(drain)) == 1
    assert fleet("drover_drain_still_seconds", **of(drain)) == pytest.approx(3600, abs=60)
    with transaction() as session:
        session.query(Job).filter_by(guest="web").one().drain_id = drain.id
    assert fleet("drover_drain_still_seconds", **of(drain)) == pytest.approx(0, abs=60), "its job was just begun"


def test_a_drain_that_waits_for_its_window_does_not_stand_still(fleet: Scrape, drain: Drain) -> None:
    with transaction() as session:
        session.get_one(Drain, drain.id).window = Window(start="22:00", end="04:00", timezone="UTC")
    assert fleet("drover_drain_still_seconds", **of(drain)) is None
    with transaction() as session:
        session.query(Job).filter_by(guest="web").one().drain_id = drain.id
    assert fleet("drover_drain_still_seconds", **of(drain)) is not None, "a move of it is under way"


def test_a_move_that_is_held_in_sync_and_its_drain_do_not_stand_still(fleet: Scrape, drain: Drain) -> None:
    with transaction() as session:
        job = session.query(Job).filter_by(guest="web").one()
        job.hold, job.drain_id, job.progress_at = True, drain.id, func.now() - timedelta(hours=2)
        at = {"job_id": str(job.id), "guest": "web", "state": "running", "step": "prepare_dest_image", "host": "hv2"}
    assert fleet("drover_job_step_age_seconds", **at) == pytest.approx(7200, abs=60), "its disks are not copied yet"
    assert fleet("drover_drain_still_seconds", **of(drain)) is not None
    with transaction() as session:
        session.query(Job).filter_by(guest="web").one().disks[0].ready_at = datetime.now(UTC)
    assert fleet("drover_job_step_age_seconds", **at) == 0
    assert fleet("drover_drain_still_seconds", **of(drain)) is None


def test_a_dead_database_and_a_dead_broker_are_told_and_not_waited_for(
    fleet: Scrape, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert fleet("drover_database_up") == 1
    assert fleet("drover_broker_up") == 0, "this lab has no Redis"
    monkeypatch.setenv("DROVER_DATABASE_URL", f"postgresql+psycopg://drover@/drover?host={tmp_path}")
    settings.cache_clear()
    assert fleet("drover_database_up") == 0
    assert fleet("drover_jobs", state="queued") is None


def test_a_database_that_gives_no_answer_is_told_and_the_next_answer_is_heard(
    fleet: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "PATIENCE_S", 0.2)
    with transaction() as session:
        session.execute(text("LOCK TABLE job IN ACCESS EXCLUSIVE MODE"))
        for _ in range(3):
            assert fleet("drover_database_up") == 0
        assert sum(thread.name == "metrics" for thread in threading.enumerate()) == 1, "scrapes pile up"
    monkeypatch.setattr(collector, "PATIENCE_S", 10.0)
    until("the database answers again", lambda: fleet("drover_database_up") == 1, 20)


def test_a_frozen_broker_is_told_and_does_not_hide_what_the_database_says(
    fleet: Scrape, database_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "PATIENCE_S", 1.0)
    redis = services.start_redis(database_lab)
    try:
        assert fleet("drover_broker_up") == 1
        redis.signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert fleet("drover_broker_up") == 0
        assert fleet("drover_jobs", state="queued") == 1
        assert time.monotonic() - begun < 8
    finally:
        redis.kill()


@pytest.mark.parametrize("address", ["9464", "127.0.0.1:metrics", "127.0.0.1:99999", "203.0.113.7:9464", "{taken}"])
def test_a_controller_does_not_start_where_it_could_not_be_asked(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = address.format(taken=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(PreconditionFailed, match="set --metrics or DROVER_METRICS_ADDRESS to ADDRESS:PORT") as told:
            metrics.check_address(address)
    assert repr(address) in str(told.value)


def expressions() -> list[str]:
    """What the panels of the dashboards ask Prometheus for."""
    dashboards = [json.loads(file.read_text()) for file in sorted((DEPLOY / "grafana").glob("*.json"))]
    return [target["expr"] for board in dashboards for panel in board["panels"] for target in panel["targets"]]


def described(scrape: Scrape) -> dict[str, tuple[str, frozenset[str]]]:
    """{name: (type, labels)} of all metrics, with their names in Prometheus."""
    families = text_string_to_metric_families(generate_latest(scrape.registry).decode())
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels) - {"le"},
        )
        for family in families
    }


@pytest.fixture
def telling(fleet: Scrape, drain: Drain, database_lab: Lab) -> Iterator[Scrape]:
    """A fleet with a value for each metric."""
    factories.guest("tmp", "hv1")
    guests.describe("tmp", labels=["tier=db"])
    fleet_limits.describe_host("hv1", {}, ["rack=r1"])
    factories.guest("later", "hv1")
    factories.job("later", "hv2")
    expected = Estimate(copy_s=60, switch_s=6, copy_bytes=60, link_bytes_per_s=1)
    factories.job("tmp", "hv2", state=JobState.RUNNING, estimate=expected)
    rolls.submit(RollRequest(hosts=("hv1", "hv2"), hook=Hook(argv=("upgrade",))))
    job = factories.job("old", "hv2", state=JobState.RUNNING)
    end(job, downtime_ms=42, ago_s=60)
    arrived_unwell("old", job)
    storage("hv1", func.now())
    trouble("old", twin="pid 1 on hv2 has its UUID as well")
    redis = services.start_redis(database_lab)
    yield fleet
    redis.kill()


def test_all_metrics_that_are_documented_are_told_and_no_others(telling: Scrape) -> None:
    declared = [one for one in vars(families).values() if isinstance(one, Family)]
    assert {one.name: (one.KIND, frozenset(one.labels.split())) for one in declared} == described(telling)


def test_dashboards_and_rules_ask_only_for_what_is_told(telling: Scrape) -> None:
    told = {name + end for name in described(telling) for end in ("", "_bucket", "_sum", "_count")}
    asked = set(re.findall(r"\bdrover_\w+", RULES.read_text() + " ".join(expressions())))
    assert asked
    assert asked <= told


def test_what_every_controller_tells_is_not_added_up() -> None:
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    for expression in [*expressions(), *rules]:
        assert not re.search(r"\bsum\b(?!\(drover_leading\))", expression), expression


def test_every_command_that_an_alert_names_exists() -> None:
    named = re.findall(r"`drover ([a-z]+(?: [a-z]+)?)", RULES.read_text())
    known = {" ".join(words) for words in every_command()}
    assert len(named) > 5
    assert {words for words in named if words not in known and words.split()[0] not in known} == set()


@pytest.fixture
def prometheus(telling: Scrape, tmp_path: Path) -> Iterator[httpx.Client]:
    """A real Prometheus with the configuration of deploy/, that asks the endpoint every second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus (Debian's package) on this machine")
    server, thread = start_http_server(0, "127.0.0.1", telling.registry)
    shutil.copytree(DEPLOY / "prometheus", tmp_path, dirs_exist_ok=True)
    configuration = tmp_path / "prometheus.yml"
    endpoint = f"127.0.0.1:{server.server_port}"
    configuration.write_text(configuration.read_text().replace("controller:9464", endpoint).replace(": 15s", ": 1s"))
    port = free_port()
    command = [program, f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path}/data"]
    process = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client:
        yield client
    process.kill()
    process.wait()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_real_prometheus_has_an_answer_to_every_panel_and_pages_for_what_needs_an_operator(
    prometheus: httpx.Client,
) -> None:
    def answered(expression: str) -> bool:
        asked = {"query": expression.replace("$__range", "1m")}
        try:
            answer = prometheus.get("/query", params=asked)
        except httpx.TransportError:  # it starts
            return False
        assert answer.status_code in {200, 503}, answer.text
        return answer.status_code == 200 and bool(answer.json()["data"]["result"])

    for expression in expressions():
        until(f"{expression} is answered", partial(answered, expression), 30, every_s=0.2)
    page = 'ALERTS{alertname="DroverNeedsOperator", alertstate="firing", guest="db"}'
    until("a person is called", lambda: answered(page), 30, every_s=0.2)
    groups = prometheus.get("/rules").json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def test_the_rules_page_for_what_a_person_must_act_on() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian's package prometheus) on this machine")
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(Path(__file__).parents[1] / "alerts.yml")]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.guests
def test_a_labs_controller_answers_prometheus_and_shows_a_message_without_a_queue(lab: Lab) -> None:
    def told() -> dict[Sample, float]:
        return samples(httpx.get(metrics_url(lab), timeout=15).raise_for_status().text)

    def leading() -> dict[Sample, float] | None:
        try:
            here = told()
        except httpx.ConnectError:  # the lab was brought up just now
            return None
        return here if here["drover_leading", frozenset()] else None

    here = until("the controller leads and says so", leading)
    for name in ("drover_database_up", "drover_broker_up"):
        assert here[name, frozenset()] == 1, name
    assert here["drover_host_up", frozenset({("host", "host-a")})] == 1
    unrouted = ("drover_queue_messages", frozenset({("queue", UNROUTED_QUEUE)}))
    assert here[unrouted] == 0
    app.send_task("some.task")
    try:
        assert told()[unrouted] == 1
    finally:
        with app.connection_for_write() as connection:
            Queue(UNROUTED_QUEUE, channel=connection.default_channel).purge()
