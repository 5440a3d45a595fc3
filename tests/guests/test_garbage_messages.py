"""Whatever somebody puts into a queue: it is dropped with a line in the log, never comes back, and ends no process."""

import base64
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from drover.broker import envelope
from lab.directory import Lab
from models.host_rpc import LookForOrphans
from models.job import Direction
from tests import brokers
from tests.helpers import until
from workers.process import processes
from workflows import host_rpc
from workflows.migration.chain import task_name

QUEUE = "drover.host-a"
WRONG: tuple[Any, ...] = (
    "x",
    1,
    -1,
    1.5,
    10**400,
    True,
    None,
    [],
    [1, 2, 3],
    {},
    {"a": 1},
    {"__type__": "datetime"},
    "\ud800",
)


def with_wrong_values(message: brokers.Json) -> Iterator[str]:
    """The message with each of its parts left out, and with a value of each other type in its place."""
    for where in ((), ("headers",), ("properties",), ("properties", "delivery_info")):
        for name in _part(message, where):
            for wrong in (*WRONG, ...):
                changed = copy.deepcopy(message)
                if wrong is ...:
                    del _part(changed, where)[name]
                else:
                    _part(changed, where)[name] = wrong
                yield json.dumps(changed)


def _part(message: brokers.Json, where: tuple[str, ...]) -> brokers.Json:
    for name in where:
        message = message[name]
    return message


def with_wrong_bodies(message: brokers.Json) -> Iterator[str]:
    embedded: list[dict[str, Any]] = [{name: "x"} for name in ("callbacks", "errbacks", "chain", "chord")]
    embedded += [{"chain": [{}]}, {"chain": [1]}, {"callbacks": [{"task": 1}]}]
    bodies = [*WRONG, [1], [[], {}], [[], {}, []], [{}, {}, {}], [[], [], {}], *([[], {}, one] for one in embedded)]
    for body in bodies:
        yield json.dumps(message | {"body": base64.b64encode(json.dumps(body).encode()).decode()})
    yield json.dumps(message | {"body": "no base64!"})
    yield json.dumps(message | {"body": base64.b64encode(b"[" * 100_000).decode()})


def garbage(queue: str, task: str) -> list[str | bytes]:
    valid = brokers.envelope(queue, task, {"request_id": 0})
    return [
        *("garbage", "", "[1,2,3]", "null", "{}", b"\xff\xfe", b"\0", "[" * 100_000, '{"a":' * 100_000, "9" * 5000),
        json.dumps(valid | {"headers": {"deep": json.loads("[" * 500 + "]" * 500)} | valid["headers"]}),
        *with_wrong_values(valid),
        *with_wrong_bodies(valid),
        json.dumps(brokers.envelope(queue, "drover.no.such.task")),
        json.dumps(brokers.envelope(queue, "celery.backend_cleanup")),
        json.dumps(brokers.envelope(queue, task, {"nobody": "knows"})),
        json.dumps(brokers.envelope(queue, task, {"request_id": 2**70})),
        json.dumps(brokers.envelope(queue, task, {"request_id": {"a": [None]}})),
    ]


def test_an_envelope_that_is_dropped_is_never_a_valid_one() -> None:
    valid = brokers.envelope(QUEUE, "drover.host.answer", {"request_id": 1})
    assert envelope.fault(json.dumps(valid).encode()) is None
    why = envelope.fault(json.dumps(valid | {"headers": valid["headers"] | {"timelimit": "x"}}).encode())
    assert why == "its timelimit is 'x'"
    chain = [[], {"request_id": 1}, {"chain": [{"task": "drover.step.cleanup"}], "callbacks": []}]
    chained = json.dumps(valid | {"body": base64.b64encode(json.dumps(chain).encode()).decode()}).encode()
    assert envelope.fault(chained) is None
    assert "(chain)" in str(envelope.fault(chained, chained=False))
    said = envelope.excerpt(b"\x1b[31m" + b"x" * 100_000)
    assert said.isprintable()
    assert len(said) < 300


@pytest.mark.xdist_group("test_garbage_messages")  # all in one lab: another one takes longer than the other tests
@pytest.mark.parametrize(
    ("queue", "task", "role"),
    [
        (QUEUE, "drover.host.answer", "worker-host-a"),
        (QUEUE, task_name(Direction.DO, "cleanup"), "worker-host-a"),
        ("drover.control", "drover.job.cancel", "controller"),
    ],
)
def test_no_message_ends_a_process_or_comes_back(lab: Lab, queue: str, task: str, role: str) -> None:
    [before] = processes.find(lab.mark(role))
    with brokers.connected(lab) as redis:
        for message in garbage(queue, task):
            redis.lpush(queue, message)
        until("all are taken", lambda: not redis.exists(queue), 120)
        me = "control" if role == "controller" else "host-a"
        until("none is in hand", lambda: not redis.exists(f"unacked.{me}", f"unacked_index.{me}"), 60)
        log = lab.logs / ("controller.log" if role == "controller" else "host-a.log")
        begun = log.stat().st_size

        def said() -> str:
            redis.lpush(queue, "the last of all")
            return log.read_bytes()[begun:].decode()

        until("so much was dropped that not all is logged", lambda: "before it were left out" in said(), every_s=1.0)
    assert processes.find(lab.mark(role)) == [before]
    assert f"dropped a message from {queue}: " in log.read_text()
    if role != "controller":
        assert host_rpc.ask("host-a", LookForOrphans(unknown_jobs=False))
