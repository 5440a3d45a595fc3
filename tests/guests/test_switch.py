"""While the guest is paused nothing but the two hosts matters: broker, database and workers may be dead."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from lab.directory import Lab
from tests.helpers import MIB, Moves, until
from workers.process import processes
from workers.process.processes import Process

pytestmark = pytest.mark.guests


def _everybody_else(lab: Lab) -> list[Process]:
    """Postgres with all its processes, Redis, the workers and the controller."""
    everybody = []
    for role in ("postgres", "redis", "controller", *(f"worker-{host.name}" for host in lab.hosts)):
        found = processes.find(lab.mark(role))
        assert found, f"{role} is not to be found"
        everybody += found
    [postmaster] = processes.find(lab.mark("postgres"))
    return everybody + processes.children(postmaster)  # they overwrite their environment and so lose their mark


@contextmanager
def frozen(everybody: list[Process]) -> Iterator[None]:
    for process in everybody:
        process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in everybody:
            process.signal(signal.SIGCONT)


def test_the_switch_is_carried_through_while_broker_database_and_workers_are_frozen(moves: Moves) -> None:
    guest = moves.boot()
    everybody = _everybody_else(moves.lab)
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)

    def said(side: str, event: str) -> bool:
        host = "host-a" if side == "source" else "host-b"
        return any(line["event"] == event for line in moves.journal(job, host, side))

    until("RAM is being sent", lambda: said("source", "migrating"), every_s=0.005)
    with frozen(everybody):
        assert not said("source", "pre-switchover"), "frozen too late to prove anything"
        until("the guest runs at the destination", lambda: said("destination", "resumed"), 60)
        console = moves.lab.host("host-b").guests / guest / "console.log"
        until("the guest prints ticks there", lambda: b"tick" in console.read_bytes(), 20)
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")


@contextmanager
def traced(lab: Lab) -> Iterator[list[tuple[float, str]]]:
    """Everything that Redis and Postgres are asked, with the time of each."""
    seen: list[tuple[float, str]] = []
    stop = threading.Event()
    client = redis.Redis(unix_socket_path=f"{lab.redis}/redis.sock")
    listener = threading.Thread(target=_trace_redis, args=(client, seen, stop))
    log = lab.logs / "postgres.log"
    begin = log.stat().st_size
    _log_statements(lab, "all")
    listener.start()
    try:
        yield seen
    finally:
        stop.set()
        listener.join()
        _log_statements(lab, "none")
        seen += _statements(log, begin)


def _trace_redis(client: Any, seen: list[tuple[float, str]], stop: threading.Event) -> None:
    """`client` is a `redis.Redis`, which has no types for `monitor`."""
    with client.monitor() as monitor:
        while not stop.is_set():
            client.ping()  # so that there is always something to read
            said = monitor.next_command()
            seen.append((float(said["time"]), f"redis {said['command']}"))
            time.sleep(0.0005)


def _log_statements(lab: Lab, which: str) -> None:
    with psycopg.connect(f"host={lab.postgres} user=drover dbname=drover", autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET log_statement = '{which}'")
        connection.execute("ALTER SYSTEM SET log_line_prefix = '%n '")
        connection.execute("SELECT pg_reload_conf()")
    time.sleep(0.2)


def _statements(log: Path, begin: int) -> list[tuple[float, str]]:
    found = []
    for line in log.read_bytes()[begin:].decode().splitlines():
        stamp, _, rest = line.partition(" ")
        if stamp.replace(".", "").isdigit() and ("statement:" in rest or "execute" in rest):
            found.append((float(stamp), f"postgres {rest}"))
    return found


def _is_about_a_job(entry: str) -> bool:
    """Heartbeats, polls and leases go on all the time; what would move a job on does not."""
    if entry.startswith("redis"):
        return "LPUSH" in entry and "drover." in entry
    writes = any(word in entry for word in ("UPDATE job", "UPDATE disk", "UPDATE guest", "INSERT INTO event"))
    return writes or "INSERT INTO attempt" in entry


def test_no_message_and_no_statement_about_the_job_falls_into_the_pause(moves: Moves) -> None:
    guest = moves.boot()
    with traced(moves.lab) as seen:
        job = moves.move(guest, "host-b")
    moves.done(job)
    about = sorted((at, entry) for at, entry in seen if _is_about_a_job(entry))
    assert any(entry.startswith("redis") for _, entry in about), "the trace of Redis shows no link of the chain"
    assert any(entry.startswith("postgres") for _, entry in about), "the trace of Postgres shows no step"
    downtime = job.downtime
    assert downtime is not None
    assert downtime.stopped_at is not None
    assert downtime.resumed_at is not None
    paused = [entry for at, entry in about if downtime.stopped_at <= at <= downtime.resumed_at]
    # The worker records how far the RAM is; neither of the two switchover processes waits for that.
    assert not [entry for entry in paused if "UPDATE job SET ram=" not in entry]


def test_the_events_of_both_qemus_give_the_downtime_that_the_job_records(moves: Moves) -> None:
    guest = moves.boot()
    console_a = moves.lab.host("host-a").guests / guest / "console.log"
    job = moves.move(guest, "host-b")
    moves.done(job)
    downtime = job.downtime
    assert downtime is not None
    assert downtime.stopped_at is not None
    assert downtime.resumed_at is not None
    assert downtime.ms == pytest.approx(1000 * (downtime.resumed_at - downtime.stopped_at), abs=0.01)
    assert console_a.stat().st_mtime <= downtime.stopped_at + 0.05, "the guest still spoke at the source"
    console_b = moves.lab.host("host-b").guests / guest / "console.log"
    assert console_b.stat().st_mtime >= downtime.resumed_at - 0.05


def test_a_frozen_destination_switch_process_costs_the_guest_at_most_two_seconds(moves: Moves) -> None:
    guest = moves.boot()
    job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=24 * MIB)
    until(
        "RAM is being sent",
        lambda: any(line["event"] == "migrating" for line in moves.journal(job, "host-a", "source")),
    )
    switch = next(
        process
        for process in moves.processes_of(job, "host-b")
        if b"workers.switchover" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    )
    os.kill(switch.pid, signal.SIGSTOP)
    console = moves.lab.host("host-a").guests / guest / "console.log"
    gaps, last, size = [], time.monotonic(), 0
    while moves.job(job.id).state == "running" and time.monotonic() - last < 20:
        if console.exists() and console.stat().st_size != size:
            gaps.append(time.monotonic() - last)
            last, size = time.monotonic(), console.stat().st_size
            if len(gaps) > 60:
                break
        time.sleep(0.01)
    assert max(gaps[1:]) < 2.5
    moves.done(moves.ended(job.id))
    moves.intact(guest, "host-b")
