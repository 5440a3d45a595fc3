"""A control node: what controllers need, and how Postgres and Redis are set up for them."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import select, text

from drover import words
from drover.cli.checks.check import Check, ok, problem, valid_until, warning
from drover.cli.checks.host import ENVIRONMENT
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
    yield from _tokens()
    yield from _passwords_of_redis()
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
        yield problem("webhooks", "there are receivers, but DROVER_WEBHOOK_KEY is not set: none gets a message", fix)
    for receiver in receivers:
        for secret in receiver.secrets:
            if secret.ends_at is not None and secret.ends_at > datetime.now(UTC):
                until = words.utc(secret.ends_at)
                yield ok("webhooks", f"messages to {receiver.name} are signed with its former secret too until {until}")
    yield from _former_key(ours)


def _former_key(ours: Settings) -> Iterator[Check]:
    """DROVER_WEBHOOK_KEY_FORMER, as long as it is set."""
    from workflows import receivers

    if not ours.webhook_key_former:
        return
    if names := receivers.with_former_key(ours):
        fix = f"`drover webhook rotate {' '.join(names)}`, and wait until the overlap is over"
        yield warning("webhooks", "there are secrets that DROVER_WEBHOOK_KEY_FORMER has made", fix)
    else:
        found = "no secret that counts was made with DROVER_WEBHOOK_KEY_FORMER"
        yield warning("webhooks", found, "unset it, and restart the controllers")


def _tokens() -> Iterator[Check]:
    """Those of the API that end soon, or ended without being revoked."""
    from workflows import access

    for token in access.listed():
        if token.ends_at is not None and token.revoked_at is None:
            another = f"`drover token add {token.user} --scope {token.scope}`"
            fix = f"{another}, use that, then `drover token revoke {token.id} --keep-submitted`"
            found = valid_until("tokens", f"token {token.id} of {token.user}", token.ends_at, fix)
            yield replace(found, status="warning") if found.status == "problem" else found  # no move needs it


def _passwords_of_redis() -> Iterator[Check]:
    """Users whose former password still counts, as `drover broker acl` has left them here."""
    for path in sorted(ENVIRONMENT.parent.glob("*.redis")):
        if os.access(path, os.R_OK) and len(path.read_text().split()) > 1:
            fix = f"once its service has the new one: `drover broker acl` with `--settle {path.stem}`, then `ACL LOAD`"
            yield warning("broker-password", f"two passwords of {path.stem} count for Redis", fix)


def _redis() -> Iterator[Check]:
    from drover.broker import health

    known = health.information()
    policy = known.get("maxmemory_policy")
    if policy not in {None, "noeviction"}:
        found = f"Redis drops what it likes when it is full (maxmemory-policy {policy}), also messages"
        yield problem("redis", found, "set maxmemory-policy to noeviction in its configuration")
    else:
        yield ok("redis", f"version {known.get('redis_version')}, it drops no messages")
