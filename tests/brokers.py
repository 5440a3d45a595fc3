"""What tests change in a lab's Redis directly."""

import base64
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis

from lab.directory import Lab

Json = dict[str, Any]


@contextmanager
def connected(lab: Lab) -> "Iterator[redis.Redis]":
    """The lab's Redis."""
    with redis.Redis(unix_socket_path=f"{lab.redis}/redis.sock") as client:
        yield client


def envelope(queue: str, task: str, named: Mapping[str, Any] | None = None) -> Json:
    """A message as Celery sends it."""
    number = str(uuid.uuid4())
    body = [[], dict(named or {}), {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    texts = {"lang": "py", "root_id": number, "parent_id": None, "argsrepr": "()", "kwargsrepr": "{}", "origin": "test"}
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": texts
        | {"task": task, "id": number, "shadow": None, "eta": None, "expires": None, "group": None, "group_index": None}
        | {"retries": 0, "timelimit": [None, None], "ignore_result": True, "replaced_task_nesting": 0}
        | {"stamped_headers": None, "stamps": {}},
        "properties": {
            "correlation_id": number,
            "reply_to": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
