"""Drains of a tenth of a simulated fleet at once: planning time, and what controller, Postgres and Redis spend."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import func, select, text

from bench.figures import Figure
from bench.fleet.fake_worker import CPUS, DISK_BYTES, MEMORY_BYTES, host_name
from bench.measuring import cpu_s, memory_mib
from lab import fleet, services
from lab.directory import SHORT_PATHS, Lab
from migrations import upgrade
from models.database import transaction
from models.documents import HostFacts
from models.drain import DrainKind
from models.guest import Guest
from models.host import Host
from models.job import Job, JobState
from workers.process import processes
from workflows import fleet_limits
from workflows.drain import commands, planner
from workflows.drain.planner import DrainRequest

GUESTS_PER_HOST, HOSTS_PER_PROCESS = 10, 50
WINDOW_S = 60.0
MAX_MOVES = 40
"""Two moves out of each of twenty hosts."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a fleet of one size took, per second of the window."""

    hosts: int
    planning_s: float
    jobs_under_way: int
    jobs_done: int
    transactions_per_s: float
    redis_commands_per_s: float
    controller_cpu: float
    """Of a core, in percent; likewise the next two."""
    postgres_cpu: float
    redis_cpu: float
    controller_mib: float


def measure(sizes: list[int]) -> list[Figure]:
    """Figures of the largest fleet; how they grow with its size is in their series."""
    loads = []
    for hosts in sizes:
        with _simulated(hosts) as lab:
            loads.append(_drained(lab, hosts))
        print(f"  {loads[-1]}", flush=True)
    return _figures(loads)


@contextmanager
def _simulated(hosts: int) -> Iterator[Lab]:
    lab = Lab(Path(tempfile.mkdtemp(prefix="df", dir=SHORT_PATHS)))
    try:
        lab.path.chmod(0o711)
        lab.logs.mkdir()
        (lab.path / "hosts").mkdir()
        (lab.path / "drover-lab").touch()
        services.start_postgres(lab)
        services.start_redis(lab)
        with fleet.pointed_at(lab):
            upgrade()
            services.make_roles(lab, ())
            fleet_limits.change({"max_moves": MAX_MOVES})
            _populate(hosts)
            for first in range(0, hosts, HOSTS_PER_PROCESS):
                _start_hands(lab, first, min(first + HOSTS_PER_PROCESS, hosts))
            fleet.start_controller(lab)
            _await_beats(hosts)
            yield lab
    finally:
        fleet.down(lab)
        shutil.rmtree(lab.path, ignore_errors=True)


def _populate(hosts: int) -> None:
    room: dict[str, Any] = {
        "guest_cpus": CPUS * GUESTS_PER_HOST * 2,
        "guest_memory_bytes": MEMORY_BYTES * GUESTS_PER_HOST * 2,
        "guest_disk_bytes": DISK_BYTES * GUESTS_PER_HOST * 2,
    }
    size = {"cpus": CPUS, "memory_bytes": MEMORY_BYTES, "disk_bytes": DISK_BYTES}
    common = {"address": "127.0.0.1", "guest_root": "/", "incarnation": "simulated", "facts": HostFacts(), **room}
    with transaction() as session:
        long_ago = func.clock_timestamp() - text("interval '1 hour'")
        session.add_all(Host(name=host_name(number), heartbeat_at=long_ago, **common) for number in range(hosts))
        session.flush()
        for number in range(hosts * GUESTS_PER_HOST):
            name, on = f"guest-{number:05}", host_name(number // GUESTS_PER_HOST)
            session.add(Guest(name=name, host=on, qmp=f"/{name}", **size))


def _start_hands(lab: Lab, first: int, last: int) -> None:
    argv = [sys.executable, "-m", "bench.fleet.fake_worker", str(first), str(last)]
    here = {"PYTHONPATH": str(Path(__file__).parents[2])}
    processes.spawn(
        lab.mark(f"hands-{first}"),
        argv,
        lab.logs / f"hands-{first}.log",
        environment=os.environ | lab.environment | here,
    )


def _await_beats(hosts: int) -> None:
    deadline = time.monotonic() + 120
    lately = Host.heartbeat_at > func.clock_timestamp() - text("interval '15 seconds'")
    while True:
        with transaction() as session:
            alive = session.scalar(select(func.count()).select_from(Host).where(lately))
        if alive == hosts:
            return
        assert time.monotonic() < deadline, f"{alive} of {hosts} hosts are alive"
        time.sleep(0.5)


def _drained(lab: Lab, hosts: int) -> Load:
    begun = time.monotonic()
    planner.forecast(DrainRequest(kind=DrainKind.DRAIN, host=host_name(0)))
    planning_s = time.monotonic() - begun
    for number in range(max(hosts // 10, 1)):
        commands.submit(DrainRequest(kind=DrainKind.DRAIN, host=host_name(number)))
    time.sleep(10)  # until as many are under way as may
    before = _counters(lab)
    time.sleep(WINDOW_S)
    after = _counters(lab)
    spent = {name: (after[name] - before[name]) / WINDOW_S for name in before}
    with transaction() as session:
        states = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).tuples().all())
    [controller] = processes.find(lab.mark("controller"))
    return Load(
        hosts=hosts,
        planning_s=planning_s,
        jobs_under_way=states.get(JobState.RUNNING, 0),
        jobs_done=states.get(JobState.DONE, 0),
        transactions_per_s=spent["transactions"],
        redis_commands_per_s=spent["commands"],
        controller_cpu=100 * spent["controller"],
        postgres_cpu=100 * spent["postgres"],
        redis_cpu=100 * spent["redis"],
        controller_mib=memory_mib(controller.pid),
    )


def _counters(lab: Lab) -> dict[str, float]:
    with transaction() as session:
        done = session.scalar(text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"))
    with redis.Redis(unix_socket_path=f"{lab.redis}/redis.sock") as broker:
        told: Any = broker.info()
    [controller], [postgres] = (processes.find(lab.mark(role)) for role in ("controller", "postgres"))
    return {
        "transactions": float(done or 0),
        "commands": float(told["total_commands_processed"]),
        "controller": cpu_s(controller.pid),
        "postgres": sum(map(cpu_s, _children(postgres.pid))),
        "redis": told["used_cpu_user"] + told["used_cpu_sys"],
    }


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _figures(loads: list[Load]) -> list[Figure]:
    largest = loads[-1]
    about = f"{largest.hosts} hosts, {largest.hosts * GUESTS_PER_HOST} guests, {largest.jobs_under_way} moves at once"

    def figure(name: str, what: str, unit: str) -> Figure:
        series = {str(load.hosts): [float(getattr(load, name))] for load in loads}
        value = float(getattr(largest, name))
        return Figure(name=f"fleet-{name}", what=f"{what}: {about}", value=value, unit=unit, series=series, axis=what)

    return [
        figure("planning_s", "time to plan the drain of one host", "s"),
        figure("transactions_per_s", "transactions", "/s"),
        figure("redis_commands_per_s", "commands to Redis", "/s"),
        figure("controller_cpu", "controller, of a core", "%"),
        figure("postgres_cpu", "Postgres, of a core", "%"),
        figure("redis_cpu", "Redis, of a core", "%"),
        figure("controller_mib", "controller's memory (PSS)", "MiB"),
    ]
