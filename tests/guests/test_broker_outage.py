"""Redis fails over, is full or unreachable: workers and controller log it once, wait, and go on by themselves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from drover.broker.consumer import SETTLED_S
from drover.errors import PreconditionFailed
from lab import services
from lab.directory import Lab
from models.host_rpc import LookForOrphans
from tests import brokers
from tests.helpers import Moves, until
from workers.process import processes
from workflows import host_rpc
from workflows.migration import jobs
from workflows.submit_options import SubmitOptions

ROLES = ("worker-host-a", "worker-host-b", "controller")
LOGS = ("host-a.log", "host-b.log", "controller.log")


def living(lab: Lab) -> list[processes.Process]:
    return [one for role in ROLES for one in processes.find(lab.mark(role))]


@contextmanager
def replica(lab: Lab) -> Iterator[None]:
    """The master becomes the replica of one that does not answer."""
    with brokers.connected(lab) as redis:
        redis.replicaof("127.0.0.1", "1")
        yield
        redis.replicaof("no", "one")


@contextmanager
def full(lab: Lab) -> Iterator[None]:
    with brokers.connected(lab) as redis:
        redis.config_set("maxmemory", "1")
        yield
        redis.config_set("maxmemory", "0")


@contextmanager
def of_somebody_else(lab: Lab) -> Iterator[None]:
    """Some other program keeps a value of its own where our queues are."""
    queues = ("drover.host-a", "drover.host-b", "drover.control")
    with brokers.connected(lab) as redis:
        redis.mset(dict.fromkeys(queues, "x"))
        yield
        redis.delete(*queues)


@contextmanager
def gone(lab: Lab) -> Iterator[None]:
    for process in processes.find(lab.mark("redis")):
        process.kill()
    yield
    services.start_redis(lab)


def said_since(lab: Lab, before: dict[str, int]) -> dict[str, list[str]]:
    return {name: [line for line in _since(lab, name, before[name]) if "Redis is unreachable" in line] for name in LOGS}


def _since(lab: Lab, name: str, offset: int) -> list[str]:
    return (lab.logs / name).read_bytes()[offset:].decode(errors="replace").splitlines()


@pytest.mark.thorough
@pytest.mark.guests
def test_a_held_move_goes_on_over_every_kind_of_outage_and_is_released_afterwards(moves: Moves) -> None:
    lab = moves.lab
    guest = moves.boot()
    held = jobs.submit(guest, "host-b", terms=SubmitOptions(hold=True))
    until("it is held in sync", lambda: all(disk.ready_at for disk in moves.job(held.id).disks))
    before, token = living(lab), moves.job(held.id).token
    assert len(before) == len(ROLES)
    for outage in (replica, gone, full, of_somebody_else):
        sizes = {name: (lab.logs / name).stat().st_size for name in LOGS}
        with outage(lab):
            if outage is full:
                with brokers.connected(lab) as redis:
                    redis.client_kill_filter(_type="normal", skipme=True)
            until("all have noticed", lambda: all(said_since(lab, sizes).values()), 60)  # noqa: B023
            time.sleep(3)  # a flood would take its time
        for name, lines in said_since(lab, sizes).items():
            # one for each thread that waits for Redis, and not one for each time it looks
            assert 1 <= len(lines) <= 3, (outage.__name__, name, lines)
            assert sum("takes messages from" in line for line in _since(lab, name, sizes[name])) <= 2, (outage, name)
            assert not any("Unrecoverable" in line or "Traceback" in line for line in _since(lab, name, sizes[name]))
        until("the hosts answer again", lambda: all(answers(host) for host in ("host-a", "host-b")), 60)
        time.sleep(SETTLED_S + 1)  # what comes sooner belongs to the same outage
        assert living(lab) == before
    assert moves.job(held.id).token == token, "the step went on all the time"
    jobs.release(held.id)
    moves.done(moves.ended(held.id))
    moves.intact(guest, "host-b")


def answers(host: str) -> bool:
    try:
        return bool(host_rpc.ask(host, LookForOrphans(unknown_jobs=False)))
    except PreconditionFailed:
        return False
