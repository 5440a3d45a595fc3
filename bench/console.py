"""How fast pages of the console open for a large fleet: rows in a Postgres of their own, no worker, no guest."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, insert

from bench.figures import Figure, median
from lab import fleet, services
from lab.directory import Lab
from migrations import upgrade
from models.base import now
from models.database import engine, transaction
from models.documents import HostFacts
from models.guest import Guest
from models.host import Host
from models.job import Job, JobState

HOSTS, GUESTS, MOVES = 1000, 10_000, 200
AT_MOST_S, FAR_S = 1.0, 2.0
GB = 10**9
PAGES = {
    "fleet": "/",
    "filtered": "/?q=vm00123",
    "host": "/hosts/hv0007",
    "jobs": "/jobs",
    "inbox": "/inbox",
    "history": "/history",
}
ENDED_PER_DAY, DAYS = 100, 30


def measure(runs: int) -> list[Figure]:
    """The median of each page, from the request to its last byte."""
    with _console() as address, httpx.Client(base_url=address, timeout=60) as client:
        taken = {name: [_opened_s(client, path) for _ in range(max(runs, 3))] for name, path in PAGES.items()}
    return [
        Figure(
            name=f"console-{name}",
            what=f"console, {HOSTS:,} hosts and {GUESTS:,} guests: {PAGES[name]}",
            value=median(times),
            unit="s",
            at_most=AT_MOST_S,
            far=FAR_S,
        )
        for name, times in taken.items()
    ]


def _opened_s(client: httpx.Client, path: str) -> float:
    begun = time.monotonic()
    client.get(path).raise_for_status()
    return time.monotonic() - begun


@contextmanager
def _console() -> Iterator[str]:
    """The address of a console that shows the fleet."""
    lab = Lab(Path(tempfile.mkdtemp(prefix="bc", dir="/tmp")))  # nosec B108 # paths of sockets are short
    lab.path.chmod(0o711)
    try:
        services.start_postgres(lab)
        with fleet.pointed_at(lab):
            upgrade()
            _fill()
            engine().dispose()
            with _served(lab) as address:
                yield address
    finally:
        services.stop_postgres(lab)
        shutil.rmtree(lab.path, ignore_errors=True)


@contextmanager
def _served(lab: Lab) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("drover")), "console", "--listen", address]
    with subprocess.Popen(command, env=os.environ | lab.environment, stderr=subprocess.DEVNULL) as console:
        try:
            _await(f"http://{address}")
            yield f"http://{address}"
        finally:
            console.terminate()


def _await(url: str) -> None:
    for _ in range(600):
        try:
            httpx.get(url, timeout=60)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the console does not answer")


def _fill() -> None:
    with transaction() as session:
        at = now(session)
        session.execute(insert(Host), [_host(number, at + timedelta(hours=1)) for number in range(HOSTS)])
        session.execute(insert(Guest), [_guest(number) for number in range(GUESTS)])
        session.execute(insert(Job), [_move(number) | {"started_at": at} for number in range(MOVES)])
        ended = {"state": JobState.DONE, "finished_at": func.now()}
        session.execute(
            insert(Job).values(ended),
            [
                _move(number % GUESTS) | {"started_at": at - timedelta(days=number % DAYS, minutes=5)}
                for number in range(MOVES, MOVES + DAYS * ENDED_PER_DAY)
            ],
        )


def _host(number: int, heartbeat_at: object) -> dict[str, Any]:
    room = {"guest_cpus": 64, "guest_memory_bytes": 256 * GB, "guest_disk_bytes": 4000 * GB}
    named = {"name": f"hv{number:04}", "address": "127.0.0.1", "guest_root": "/", "incarnation": "x"}
    return named | room | {"facts": HostFacts(), "heartbeat_at": heartbeat_at}


def _guest(number: int) -> dict[str, Any]:
    size = {"cpus": 2, "memory_bytes": 4 * GB, "disk_bytes": 40 * GB}
    return {"name": f"vm{number:05}", "host": f"hv{number % HOSTS:04}", "qmp": f"/{number}"} | size


def _move(number: int) -> dict[str, Any]:
    way = {"source": f"hv{number % HOSTS:04}", "destination": f"hv{(number + 1) % HOSTS:04}"}
    return {"guest": f"vm{number:05}", "state": JobState.RUNNING} | way
