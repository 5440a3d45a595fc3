"""What the shell completes by asking the database. An error yields no completion and no message.

It uses psycopg alone: somebody waits at a prompt, and SQLAlchemy takes a quarter of a second to import.
"""

import os

from drover.escaping import escaped

Candidates = list[tuple[str, str]]

HOSTS = "SELECT name, address FROM host ORDER BY name"
GUESTS = "SELECT name, host FROM guest ORDER BY name"
RECEIVERS = "SELECT name, array_to_string(within, ' ') FROM webhook_receiver ORDER BY name"
NEWEST_JOBS = "SELECT id::text, concat_ws(' ', guest, destination, state) FROM job ORDER BY id DESC LIMIT 50"


def _matching(query: str, incomplete: str) -> Candidates:
    import psycopg

    try:
        url = os.environ["DROVER_DATABASE_URL"].replace("+psycopg", "", 1)
        with psycopg.connect(url, connect_timeout=2) as connection:
            rows = connection.execute(query.encode()).fetchall()
    except Exception:  # an error must not be printed into a prompt
        return []
    found = ((escaped(name), escaped(more)) for name, more in rows)
    return [(name, more) for name, more in found if name.startswith(incomplete)]


def hosts(incomplete: str) -> Candidates:
    """Names of hosts."""
    return _matching(HOSTS, incomplete)


def guests(incomplete: str) -> Candidates:
    """Names of guests."""
    return _matching(GUESTS, incomplete)


def jobs(incomplete: str) -> Candidates:
    """Numbers of the newest jobs."""
    return _matching(NEWEST_JOBS, incomplete)


def receivers(incomplete: str) -> Candidates:
    """Receivers of webhooks."""
    return _matching(RECEIVERS, incomplete)
