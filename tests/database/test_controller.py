"""The controller as a process: nothing ends it, and who cannot work leaves the lead to another."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError as BrokerUnreachable
from sqlalchemy import text

from drover.broker import health
from lab import services
from lab.directory import Lab
from models.database import engine, transaction, unpooled
from models.job import JobState
from tests.documents import NOWHERE
from tests.factories import guest, host, job, load
from tests.helpers import until
from workflows import isolation, leader_election

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def broker() -> Iterator[str]:
    """A Redis of this test's own; returns its URL."""
    made = Lab(Path(tempfile.mkdtemp(prefix="dc", dir="/tmp")))
    server = services.start_redis(made)
    try:
        yield f"redis+socket://{made.redis}/redis.sock"
    finally:
        server.kill()
        shutil.rmtree(made.path, ignore_errors=True)


@contextmanager
def controller(broker_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A controller with this broker, at the test's database."""
    environment = os.environ | {"DROVER_BROKER_URL": broker_url}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("drover")), "controller"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def leader() -> int | None:
    """The backend that holds the lock."""
    with transaction() as session:
        holder = text(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND objid = :low"
        )
        found: int | None = session.scalar(holder, {"low": leader_election.ACTING_LOCK & 0xFFFFFFFF})
        return found


def test_a_row_that_raises_ends_neither_the_controller_nor_anything_else(broker: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        host(name)
    for name in ("bad", "good", "later"):
        guest(name, "one")
    bad, good = job("bad", "two", window=NOWHERE, priority=9), job("good", "two")
    log = tmp_path / "controller.log"
    with controller(broker, log) as process:
        until("the good job begins", lambda: load(good).state is JobState.RUNNING)
        until("the bad one says why it waits", lambda: (load(bad).wait_reason or "").startswith(isolation.TROUBLE))
        later = job("later", "two")
        until("a later one begins", lambda: load(later).state is JobState.RUNNING)
        assert process.poll() is None
    assert "Traceback" in log.read_text()
    assert f"job {bad} is set aside" in log.read_text()


@pytest.mark.thorough
def test_a_leader_that_only_loses_redis_leaves_the_lead_to_another(broker: str, tmp_path: Path) -> None:
    own = Lab(Path(tempfile.mkdtemp(prefix="dc", dir="/tmp")))
    server = services.start_redis(own)
    try:
        with controller(f"redis+socket://{own.redis}/redis.sock", tmp_path / "first.log") as first:
            former = until("the first leads", leader)
            with controller(broker, tmp_path / "second.log") as second:
                until("the second is ready", lambda: b"ready" in (tmp_path / "second.log").read_bytes())
                assert leader() == former
                server.kill()
                until("the second leads", lambda: leader() not in {None, former})
                assert (first.poll(), second.poll()) == (None, None)
                for name in ("one", "two"):
                    host(name)
                guest("web", "one")
                number = job("web", "two")
                until("it acts", lambda: load(number).state is JobState.RUNNING)
    finally:
        server.kill()
        shutil.rmtree(own.path, ignore_errors=True)


def test_a_broker_that_takes_no_messages_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Lab(Path(tempfile.mkdtemp(prefix="dc", dir="/tmp")))
    server = services.start_redis(own)
    try:
        monkeypatch.setattr(
            health, "app", Celery(broker=f"redis+socket://{own.redis}/redis.sock", set_as_current=False)
        )
        with redis.Redis(unix_socket_path=str(own.redis / "redis.sock")) as client:
            health.check_broker()
            client.config_set("maxmemory", 1)
            with pytest.raises(redis.RedisError, match="maxmemory"):
                health.check_broker()
            client.config_set("maxmemory", 0)
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(redis.RedisError, match="read only"):
                health.check_broker()
        server.kill()
        with pytest.raises(BrokerUnreachable):
            health.check_broker()
    finally:
        server.kill()
        shutil.rmtree(own.path, ignore_errors=True)


def test_whatever_ends_the_lead_frees_the_lock_and_returns_no_connection_with_it() -> None:
    with suppress(ZeroDivisionError), unpooled() as connection:
        assert leader_election.acquire(connection)
        raise ZeroDivisionError
    until("the lock is free", lambda: leader() is None)
    assert engine().pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_controller_whose_connection_is_cut_leads_again(broker: str, tmp_path: Path) -> None:
    with controller(broker, tmp_path / "log") as process:
        former = until("it leads", leader)
        with transaction() as session:
            session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": former})
        until("it leads again", lambda: leader() not in {None, former})
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.thorough
def test_a_job_says_that_redis_is_full_until_it_no_longer_is(broker: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        host(name, heartbeat_at=datetime.now(UTC) + timedelta(hours=1))
    guest("web", "one")
    number = job("web", "two", state=JobState.RUNNING)
    with redis.Redis(unix_socket_path=broker.removeprefix("redis+socket://")) as client:
        client.config_set("maxmemory", 1)
        with controller(broker, tmp_path / "log"):
            until("the job says what it waits for", lambda: "maxmemory" in (load(number).wait_reason or ""))
            assert "Redis takes no messages" in (load(number).wait_reason or "")
            client.config_set("maxmemory", 0)
            until("its next step is published", lambda: load(number).steps[0].enqueued_at)
            assert load(number).wait_reason is None
