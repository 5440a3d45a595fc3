"""A control node: what controllers need, and how Postgres and Redis are set up for them."""

from collections.abc import Iterator

from sqlalchemy import select, text

from drover.cli.checks.check import Check, ok, problem, warning
from drover.errors import PreconditionFailed
from drover.extras import require
from drover.settings import Settings
from models.database import transaction
from models.webhook import Receiver

MOST_CONNECTIONS = 0.8


def needs(ours: Settings, *, broker: bool) -> Iterator[Check]:
    """All of it; `broker`: Redis answers."""
    if not ours.metrics_address:
        yield libraries("controller-libraries")
    yield from _connections()
    yield from _webhooks(ours)
    if broker:
        yield from _redis()


def libraries(name: str) -> Check:
    """What a controller imports is installed."""
    try:
        require("controller", "a controller")
    except PreconditionFailed as error:
        return problem(name, str(error))
    return ok(name, "what a controller needs is installed")


def _connections() -> Iterator[Check]:
    with transaction() as session:
        most = int(session.scalar(text("SHOW max_connections")) or 0)
        used = session.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")) or 0
    found = f"{used} of Postgres' {most} connections are in use"
    if used > MOST_CONNECTIONS * most:
        yield warning("connections", found, "raise max_connections in postgresql.conf: a worker needs about 10")
    else:
        yield ok("connections", found)


def _webhooks(ours: Settings) -> Iterator[Check]:
    with transaction() as session:
        receivers = session.scalars(select(Receiver)).all()
    if receivers and not ours.webhook_key:
        fix = "set it to what made the receivers' secrets, docs/reference/settings.md"
        yield problem("webhooks", "there are receivers, but DROVER_WEBHOOK_KEY is not set: none is told", fix)


def _redis() -> Iterator[Check]:
    from drover.broker import health

    known = health.information()
    policy = known.get("maxmemory_policy")
    if policy not in {None, "noeviction"}:
        found = f"Redis drops what it likes when it is full (maxmemory-policy {policy}), also messages"
        yield problem("redis", found, "set maxmemory-policy to noeviction in its configuration")
    else:
        yield ok("redis", f"version {known.get('redis_version')}, it drops no messages")
