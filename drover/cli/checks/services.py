"""Database and broker, as this machine reaches them."""

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from drover.cli.checks.check import Check, ok, problem, valid_until, warning
from drover.cli.errors import fault
from drover.settings import Settings

WRITTEN_BY_WORKERS = (("job", "wait_reason"), ("guest", "launcher"), ("host", "qemus"), ("storage", "free_bytes"))
"""Columns that a worker writes; among them the newest that it is permitted to."""
CLOCKS_NEAR = timedelta(seconds=1)
MANY_MESSAGES = 100


def database() -> Check:
    """It answers, and has the schema of this version."""
    import migrations
    from models.database import engine

    try:
        with engine().connect() as connection:
            revision = migrations.present(connection)
    except Exception as error:
        return problem("database", fault(error).message)
    newest = migrations.newest()
    if revision != newest:
        there = f"at revision {revision}" if revision else "empty"
        found = f"the schema is {there}, this drover needs {newest}"
        return problem("database", found, "run `drover db upgrade`, or install its version")
    return ok("database", f"it answers, its schema is at revision {revision}")


def limits(ours: Settings) -> Iterator[Check]:
    """Those of the fleet go with this machine, and somebody admits moves."""
    from models.database import transaction
    from workflows import fleet_limits, leader_election

    for sentence in fleet_limits.warnings(os.environ, ours):
        yield warning("limits", sentence)
    with transaction() as session:
        acts = leader_election.anybody_acts(session)
    if acts:
        yield ok("controller", "one acts")
    else:
        yield warning("controller", "none is active", "nothing begins until `drover controller` runs somewhere")


def broker() -> Check:
    """Whether the broker answers."""
    from drover.broker import health

    try:
        health.ping()
    except Exception as error:
        return problem("broker", fault(error).message)
    return ok("broker", "Redis answers")


def clock() -> Iterator[Check]:
    """How far it is off the database's, which all stored times are by."""
    from models.base import now
    from models.database import transaction
    from workers.streams.credentials import CLOCKS_APART

    with transaction() as session:
        now(session)  # the connection is open now
        before = time.time()
        there = now(session).timestamp()
        after = time.time()
    apart = timedelta(seconds=abs(there - (before + after) / 2))
    found = f"it is {apart.total_seconds():.1f} s off the database's"
    fix = "have chrony or systemd-timesyncd set it, `timedatectl set-ntp true`"
    if apart >= CLOCKS_APART / 2:
        yield problem("clock", f"{found}, so that certificates of moves are not valid yet, or no longer", fix)
    elif apart - timedelta(seconds=(after - before) / 2) > CLOCKS_NEAR:
        yield warning("clock", f"{found}, so that times in logs do not go with those of jobs", fix)
    else:
        yield ok("clock", found)


def role(ours: Settings) -> Iterator[Check]:
    """What the database permits this machine: its own work and no more."""
    from sqlalchemy import text

    from models.database import transaction

    owner = text("SELECT current_user = tableowner FROM pg_tables WHERE tablename = 'job' AND schemaname = 'public'")
    may = text("SELECT has_column_privilege(:table, :column, 'UPDATE')")
    with transaction() as session:
        owns = session.scalar(owner)
        lacks = [f"{t}.{c}" for t, c in WRITTEN_BY_WORKERS if not session.scalar(may, {"table": t, "column": c})]
    purpose = f"--host {ours.host}" if ours.host else "--controller ROLE"
    fix = f"give it a role with the rights that it needs: `drover db roles {purpose}`, docs/how-to/deploy.md"
    if lacks:
        yield problem("database-role", f"this role may not write {', '.join(lacks)}", fix)
    elif ours.host and owns:
        found = "this hypervisor logs in as the owner of the tables: who takes it over may change every move"
        yield warning("database-role", found, fix)
    else:
        yield ok("database-role", "it permits what is needed")
    yield from _passwords_of(ours)


ROLES = """
    SELECT DISTINCT role.rolname, role.rolvaliduntil FROM pg_roles AS role
    LEFT JOIN pg_auth_members AS membership ON membership.member = role.oid
    LEFT JOIN pg_roles AS purpose ON purpose.oid = membership.roleid
    WHERE role.rolvaliduntil < 'infinity'
    AND (role.rolname = current_user OR :all AND purpose.rolname LIKE 'drover\\_%')
    ORDER BY role.rolname
"""


def _passwords_of(ours: Settings) -> Iterator[Check]:
    """How long passwords for Postgres count: this role's, on a control node those of all."""
    from sqlalchemy import text

    from models.database import transaction

    with transaction() as session:
        found = session.execute(text(ROLES), {"all": not ours.host}).all()
    for name, ends in found:
        fix = f"`drover db roles` with `--password {name}`, docs/how-to/tls-and-keys.md; moves go on"
        yield valid_until("database-password", f"the password of {name} for Postgres", ends, fix)


def queues(ours: Settings) -> Iterator[Check]:
    """Whether the messages of this host's queues are taken."""
    from drover.broker import health
    from drover.broker.app import CONTROL_QUEUE, UNROUTED_QUEUE, host_queue

    mine = [host_queue(ours.host)] if ours.host else [CONTROL_QUEUE, UNROUTED_QUEUE]
    for queue, waiting in health.lengths(mine).items():
        if queue == UNROUTED_QUEUE and waiting:
            found = f"{waiting} messages were sent without a queue: nobody takes them"
            yield warning("queues", found, f"send them to {CONTROL_QUEUE}, docs/reference/cli.md")
        elif waiting >= MANY_MESSAGES:
            found = f"{waiting} messages wait in {queue}"
            yield warning("queues", found, "see whether the service that takes them runs, and its log")
        elif queue != UNROUTED_QUEUE:
            yield ok("queues", f"{waiting} messages wait in {queue}")


def connections(ours: Settings) -> Iterator[Check]:
    """Those to database and broker cannot be listened to, and their certificates are valid."""
    database, broker = parse_qs(urlsplit(ours.database_url).query), urlsplit(ours.broker_url.split(";")[0])
    there = urlsplit(ours.database_url).hostname or database.get("host", [""])[0]
    if not _near(there) and database.get("sslmode") != ["verify-full"]:
        found = f"Postgres at {there} is not made to prove who it is"
        yield warning("database-tls", found, "add sslmode=verify-full&sslrootcert=FILE to DROVER_DATABASE_URL")
    if broker.scheme in {"redis", "sentinel"} and not _near(broker.hostname or ""):
        found = f"what goes to Redis at {broker.hostname} is not encrypted"
        yield warning("broker-tls", found, "use rediss:// in DROVER_BROKER_URL, docs/how-to/deploy.md")
    used = parse_qs(broker.query)
    named = [
        *(("database-tls", path) for name in ("sslcert", "sslrootcert") for path in database.get(name, ())),
        *(("broker-tls", path) for name in ("ssl_certfile", "ssl_ca_certs") for path in used.get(name, ())),
    ]
    for name, path in named:
        yield certificate(name, Path(path))


def _near(host: str) -> bool:
    """Nothing goes over a network: a socket, or this machine itself."""
    try:
        return not host or host.startswith("/") or ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def certificate(name: str, path: Path) -> Check:
    """A PEM file can be read, and its certificates are valid for some time."""
    from cryptography import x509

    try:
        ends = min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(path.read_bytes()))
    except (OSError, ValueError) as error:
        return problem(name, f"{path} cannot be read ({error})", "put the certificate there, readable by this user")
    fix = "put a new one there, docs/how-to/tls-and-keys.md: it counts from the next connection on, moves go on"
    return valid_until(name, str(path), ends, fix)
