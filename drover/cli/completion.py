"""What the shell completes by asking the database, or the API. An error yields no completion and no message.

Neither SQLAlchemy nor httpx is used: somebody waits at a prompt, and SQLAlchemy takes a quarter of a second to import.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from drover.escaping import escaped

Candidates = list[tuple[str, str]]
PATIENCE_S = 2


@dataclass(frozen=True)
class Names:
    """Where names are, each with what is shown beside it."""

    query: str
    """Of the database."""
    path: str = ""
    """Of the API; empty: it does not tell them."""
    told: Callable[[dict[str, Any]], tuple[str, ...]] = lambda _: ()
    """Of one row of its answer: the name, and what is shown beside it."""


HOSTS = Names(
    "SELECT name, address FROM host WHERE state <> 'forgotten' ORDER BY name",
    "hosts",
    lambda row: (row["name"], row["address"]),
)
GUESTS = Names("SELECT name, host FROM guest ORDER BY name", "guests", lambda row: (row["name"], row["host"]))
RECEIVERS = Names("SELECT name, array_to_string(within, ' ') FROM webhook_receiver ORDER BY name")
JOBS = Names(
    "SELECT id::text, concat_ws(' ', guest, destination, state) FROM job ORDER BY id DESC LIMIT 50",
    "jobs?all=1&limit=50",
    lambda row: (str(row["id"]), f"{row['guest']} {row['destination']} {row['state']}"),
)


def _matching(names: Names, incomplete: str) -> Candidates:
    try:
        rows = list(_of_api(names) if os.environ.get("DROVER_API_URL") else _of_database(names))
    except Exception:  # an error must not be printed into a prompt
        return []
    found = ((escaped(name), escaped(more)) for name, more in rows)
    return [(name, more) for name, more in found if name.startswith(incomplete)]


def _of_database(names: Names) -> Iterable[tuple[str, ...]]:
    import psycopg

    url = os.environ["DROVER_DATABASE_URL"].replace("+psycopg", "", 1)
    with psycopg.connect(url, connect_timeout=PATIENCE_S) as connection:
        return connection.execute(names.query.encode()).fetchall()


def _of_api(names: Names) -> Iterable[tuple[str, ...]]:
    import json
    from urllib.request import Request, urlopen

    address, token = os.environ["DROVER_API_URL"].rstrip("/"), os.environ.get("DROVER_API_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urlopen(Request(f"{address}/api/v1/{names.path}", headers=headers), timeout=PATIENCE_S) as answer:  # noqa: S310 # nosec B310 # the address is the user's own
        [rows] = json.load(answer).values()
    return map(names.told, rows)


def hosts(incomplete: str) -> Candidates:
    """Names of hosts."""
    return _matching(HOSTS, incomplete)


def guests(incomplete: str) -> Candidates:
    """Names of guests."""
    return _matching(GUESTS, incomplete)


def jobs(incomplete: str) -> Candidates:
    """Numbers of the newest jobs."""
    return _matching(JOBS, incomplete)


def receivers(incomplete: str) -> Candidates:
    """Receivers of webhooks."""
    return _matching(RECEIVERS, incomplete)
