"""Redis under three Sentinels and Postgres with a standby: both masters die during a drain, and everything goes on."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select

from lab import fleet, services
from lab.directory import MARKER, Lab, host_names
from models.database import transaction
from models.job import Step, StepState
from tests import labs, standby
from tests.helpers import Moves, until
from tests.standby import LabWithStandby
from workers.process import processes

pytestmark = pytest.mark.guests

SENTINELS = 3


class TwoOfEach(LabWithStandby):
    """A lab whose processes have two Postgres servers and three Sentinels in their URLs."""

    @property
    def ports(self) -> list[int]:
        """Of both Redis servers, then of the Sentinels."""
        return [int(word) for word in (self.path / "ports").read_text().split()]

    @property
    def environment(self) -> dict[str, str]:
        sentinels = ";".join(f"sentinel://127.0.0.1:{port}" for port in self.ports[2:])
        return super().environment | {"DROVER_BROKER_URL": sentinels, "DROVER_BROKER_MASTER": "drover"}


@pytest.fixture
def moves() -> Iterator[Moves]:
    lab = TwoOfEach(Path(tempfile.mkdtemp(prefix="dl", dir="/tmp")), labs.BRISK)
    try:
        lab.path.chmod(0o711)
        for name in host_names(2):
            lab.host(name).guests.mkdir(parents=True)
        (lab.path / MARKER).touch()
        (lab.path / "ports").write_text(" ".join(str(fleet.free_port()) for _ in range(2 + SENTINELS)))
        fleet.write_policy(lab)
        standby.start(lab)
        _start_redis(lab)
        fleet.make_tables(lab)
        services.make_roles(lab, host_names(2))
        for host in lab.hosts:
            fleet.start_worker(lab, host)
        fleet.start_controller(lab)
        fleet.wait_for_workers(lab)
        with fleet.pointed_at(lab):
            yield Moves(lab)
    finally:
        fleet.down(lab)
        shutil.rmtree(lab.path, ignore_errors=True)


def _start_redis(lab: TwoOfEach) -> None:
    first, second, *sentinels = lab.ports
    _redis(lab, "redis-1", first, "")
    _redis(lab, "redis-2", second, f"replicaof 127.0.0.1 {first}\n")
    for port in sentinels:
        watched = f"sentinel monitor drover 127.0.0.1 {first} 2\nsentinel down-after-milliseconds drover 1000\n"
        _redis(lab, f"sentinel-{port}", port, f"{watched}sentinel failover-timeout drover 5000\n", "--sentinel")
    asked = [redis.Redis(port=port, decode_responses=True) for port in sentinels]
    until("all know each other", lambda: all(_ready(one) for one in asked))
    for one in asked:
        one.close()


def _ready(sentinel: redis.Redis) -> bool:
    told: Any = sentinel.sentinel_master("drover")
    return bool(told["num-other-sentinels"] == SENTINELS - 1 and told["num-slaves"] == 1)


def _redis(lab: Lab, name: str, port: int, lines: str, *options: str) -> None:
    folder = lab.path / name
    folder.mkdir()
    kept = "" if options else "appendonly yes\n"
    (folder / "conf").write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\nset-proc-title no\n{kept}{lines}")
    processes.spawn(lab.mark(name), ["redis-server", str(folder / "conf"), *options], lab.logs / f"{name}.log")
    with redis.Redis(port=port) as client:
        until(f"{name} answers", lambda: _answers(client))


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def drover(lab: Lab, *words: str) -> dict[str, Any]:
    """The command's JSON document."""
    command = [fleet._program("drover"), *words, "--json"]
    done = subprocess.run(command, env=os.environ | lab.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _kill(lab: Lab, role: str) -> None:
    for process in processes.find(lab.mark(role)):
        process.kill()


@pytest.mark.thorough
def test_the_masters_of_redis_and_postgres_die_during_a_drain(moves: Moves) -> None:
    lab = moves.lab
    assert isinstance(lab, TwoOfEach)
    names = [moves.boot(write_rate=20, dirty_rate=1) for _ in range(2)]
    ours = ("worker-host-a", "worker-host-b", "controller")
    before = [one for role in ours for one in processes.find(lab.mark(role))]
    drain = drover(lab, "drain", "host-a", "--bandwidth", "4M")
    until("a copy is under way", _copying)
    _kill(lab, "redis-1")
    with redis.Redis(port=lab.ports[1], decode_responses=True) as second:
        until("the Sentinels have chosen the other", lambda: second.info("replication")["role"] == "master")
    standby.fail_over(lab)
    until("the drain is done", lambda: drover(lab, "drain", "show", str(drain["id"]))["state"] == "done", 150, 0.5)
    assert [one for role in ours for one in processes.find(lab.mark(role))] == before, "nobody ended"
    for name in names:
        moves.intact(name, "host-b")
    moves.end()


def _copying() -> bool:
    with transaction() as session:
        wanted = select(Step).where(Step.name == "await_sync", Step.state == StepState.RUNNING)
        return session.scalar(wanted) is not None
