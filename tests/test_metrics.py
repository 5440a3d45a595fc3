"""What Prometheus hears of the fleet, and that dashboards and alert rules ask for nothing else."""

import json
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func

from lab.cli import metrics_url
from lab.directory import Lab
from models.base import now
from models.database import forget, transaction
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.job import Attempt, Job, JobState, StepState
from models.settings import settings
from tests import fleet_rows
from tests.support import until
from workers.app import UNROUTED_QUEUE, app
from workflows import metrics
from workflows.metrics import Fleet

DEPLOY = Path(__file__).parent.parent / "deploy"
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


@pytest.fixture
def fleet(database: None) -> Scrape:
    """Three hosts, one of them silent; four guests, two of them under way."""
    fleet_rows.host("hv1")
    fleet_rows.host("hv2")
    fleet_rows.host("dead", heartbeat_at=now() - timedelta(minutes=5))
    for name in ("web", "db", "mail", "old"):
        fleet_rows.guest(name, "hv1")
    fleet_rows.job("web", "hv2", state=JobState.RUNNING)
    fleet_rows.job("db", "dead", state=JobState.NEEDS_OPERATOR)
    fleet_rows.job("mail", "hv2")
    return Scrape()


def end(job_id: int, blackout_ms: float, ago_s: float) -> None:
    """A job that moved its guest so long ago."""
    ended = now() - timedelta(seconds=ago_s)
    with transaction() as session:
        job = session.get_one(Job, job_id)
        job.state, job.finished_at, job.ram = JobState.DONE, ended, {"transferred": 3_000_000_000}
        job.blackout = {"ms": blackout_ms, "phases": {}}
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
                    started_at=ended - timedelta(seconds=2),
                    ended_at=ended,
                    outcome="done",
                )
            )


def test_jobs_and_hosts_are_told_as_they_are(fleet: Scrape) -> None:
    assert fleet("drover_jobs", state="queued") == 1
    assert fleet("drover_jobs", state="running") == 1
    assert fleet("drover_jobs", state="needs_operator") == 1
    assert fleet("drover_jobs", state="undoing") == 0
    assert fleet("drover_host_up", host="hv1") == 1
    assert fleet("drover_host_up", host="dead") == 0
    assert fleet("drover_host_guests", host="hv1") == 4
    assert fleet("drover_host_state", host="hv1", state="active") == 1
    assert fleet("drover_leading") == 0


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
    end(fleet_rows.job("old", "hv2", state=JobState.RUNNING), blackout_ms=42, ago_s=60)
    for asked in (fleet, fleet, Scrape()):
        assert asked("drover_jobs_ended_total", state="done") == 1
        assert asked("drover_moved_bytes_total", what="disks") == 7_000_000_000
        assert asked("drover_moved_bytes_total", what="ram") == 3_000_000_000
        assert asked("drover_blackout_seconds_bucket", le="0.03") == 0
        assert asked("drover_blackout_seconds_bucket", le="0.05") == 1
        assert asked("drover_blackout_seconds_sum") == pytest.approx(0.042)
    labels = {"step": "mirror_disks", "side": "source", "direction": "do", "outcome": "done"}
    assert fleet("drover_step_duration_seconds_bucket", le="1", **labels) == 0
    assert fleet("drover_step_duration_seconds_bucket", le="2.5", **labels) == 1


def test_what_ended_after_the_last_look_is_added(fleet: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SETTLED", timedelta(seconds=2))
    assert fleet("drover_blackout_seconds_count") == 0
    just_now = fleet_rows.job("old", "hv2", state=JobState.RUNNING)
    end(just_now, blackout_ms=42, ago_s=0)
    assert fleet("drover_blackout_seconds_count") == 0, "it may not be committed everywhere yet"
    until("it has settled", lambda: fleet("drover_blackout_seconds_count") == 1, 30, every_s=0.2)
    assert fleet("drover_blackout_seconds_count") == 1


def test_a_drain_is_told_with_its_guests_and_for_how_long_it_has_stood_still(fleet: Scrape) -> None:
    with transaction() as session:
        drain = Drain(kind=DrainKind.DRAIN, host="hv1", state=DrainState.RUNNING)
        drain.started_at = func.now() - timedelta(hours=1)
        drain.guests = [
            DrainGuest(guest="web", position=1, state=GuestState.WAITING, source="hv1"),
            DrainGuest(guest="db", position=2, state=GuestState.MOVED, source="hv1"),
        ]
        session.add(drain)
        session.flush()
        labels = {"drain": str(drain.id), "kind": "drain", "host": "hv1"}
    assert fleet("drover_drain_guests", state="waiting", **labels) == 1
    assert fleet("drover_drain_guests", state="moved", **labels) == 1
    assert fleet("drover_drain_still_seconds", **labels) == pytest.approx(3600, abs=60)
    with transaction() as session:
        session.query(Drain).one().waiting = "its window opens at 22:00"
    assert fleet("drover_drain_still_seconds", **labels) is None, "it waits as it should"


def test_a_dead_database_and_a_dead_broker_are_told_and_not_waited_for(
    fleet: Scrape, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert fleet("drover_database_up") == 1
    assert fleet("drover_broker_up") == 0, "this lab has no Redis"
    monkeypatch.setenv("DROVER_DATABASE_URL", f"postgresql+psycopg://drover@/drover?host={tmp_path}")
    forget()
    assert fleet("drover_database_up") == 0
    assert fleet("drover_jobs", state="queued") is None


def test_dashboards_and_rules_ask_only_for_what_is_told(fleet: Scrape) -> None:
    ended = fleet_rows.job("old", "hv2", state=JobState.RUNNING)
    end(ended, blackout_ms=42, ago_s=60)
    families = text_string_to_metric_families(generate_latest(fleet.registry).decode())
    told = {family.name for family in families} | {
        family.name + suffix
        for family in text_string_to_metric_families(generate_latest(fleet.registry).decode())
        for suffix in ("_total", "_bucket", "_sum", "_count")
    }
    dashboards = [json.loads(file.read_text()) for file in sorted((DEPLOY / "grafana").glob("*.json"))]
    assert dashboards
    expressions = [target["expr"] for board in dashboards for panel in board["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"\bdrover_\w+", RULES.read_text() + " ".join(expressions)))
    assert asked
    assert asked <= told


def test_the_rules_page_for_what_a_person_must_act_on() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian's package prometheus) on this machine")
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(Path(__file__).parent / "alerts.yml")]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.guests
def test_a_labs_controller_answers_prometheus_and_shows_a_message_without_a_queue(lab: Lab) -> None:
    def told() -> dict[Sample, float]:
        return samples(httpx.get(metrics_url(lab), timeout=15).raise_for_status().text)

    here = told()
    for name in ("drover_leading", "drover_database_up", "drover_broker_up"):
        assert here[name, frozenset()] == 1, name
    assert here["drover_host_up", frozenset({("host", "host-a")})] == 1
    unrouted = ("drover_queue_messages", frozenset({("queue", UNROUTED_QUEUE)}))
    assert here[unrouted] == 0
    app.send_task("some.task")
    try:
        assert told()[unrouted] == 1
    finally:
        with app.connection_for_write() as connection:
            connection.default_channel.queue_purge(UNROUTED_QUEUE)
