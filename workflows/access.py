"""Who may do what: tokens of the API, of which only digests are stored, and people of the console."""

import hashlib
import re
import secrets
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import ColumnElement, func, select, update

from drover.errors import PreconditionFailed
from models import decision_log
from models.access import ApiToken, Bounds, ConsoleUser, Scope
from models.database import transaction
from models.drain import Drain
from models.job import Job
from models.roll import Roll
from workflows import signatures
from workflows.selectors import Selector

PREFIX = "drover_"
"""Scanners that look for secrets know a token by it."""
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,47}")
ALLOWED = "1 to 48 letters, digits and `.`, `-`, `_`, `@` and `+`, and begins with a letter, digit or underscore"


def check_user(user: str) -> None:
    """Refuse what a user cannot be called.

    Raises:
        PreconditionFailed: it would mean more than itself in an event or a shell.
    """
    if USER.fullmatch(user) is None:
        raise PreconditionFailed(f"a user cannot be called {user[:80]!r}: a user's name has {ALLOWED}")


NOT_BOUND = Bounds()


def add(user: str, scope: Scope, lifetime: timedelta | None, bounds: Bounds = NOT_BOUND) -> tuple[ApiToken, str]:
    """Make a token for a user; returns it, and the text that is known to nobody else.

    Raises:
        PreconditionFailed: the user's name, the lifetime or a bound is not allowed.
    """
    check_user(user)
    Selector.read(bounds.selector)
    if bounds.any and scope is not Scope.OPERATE:
        raise PreconditionFailed(
            f"a token that is bound ({bounds}) may `operate`, no less and no more: add it with --scope operate"
        )
    if lifetime is not None and lifetime <= timedelta(0):
        raise PreconditionFailed("a token that has ended already is of no use: give it some time, like 90d")
    text = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(user=user, scope=scope, digest=_digest(text), bounds=bounds)
    token.submission_key = signatures.public_half(text)
    token.ends_at = None if lifetime is None else func.clock_timestamp() + lifetime
    with transaction() as session:
        session.add(token)
        session.flush()
        session.refresh(token)
        bound = f" ({bounds})" if bounds.any else ""
        decision_log.add(session, f"an operator made token {token.id} for {user}, who may {scope}{bound}")
    return token, text


def listed() -> list[ApiToken]:
    """All of them, those that have ended too."""
    with transaction() as session:
        return list(session.scalars(select(ApiToken).order_by(ApiToken.id)))


def revoke(number: int, *, keep_submitted: bool = False) -> ApiToken:
    """From now on it is refused. What was submitted with it and has not begun is stopped, unless that is kept.

    Raises:
        PreconditionFailed: there is no such token.
    """
    with transaction() as session:
        token = session.get(ApiToken, number, with_for_update=True)
        if token is None:
            raise PreconditionFailed(f"there is no token {number}: see `drover token list`")
        if token.revoked_at is not None:
            return token
        if keep_submitted:
            for submitted in (Job, Drain, Roll):
                theirs = submitted.submitted_with == number
                session.execute(update(submitted).where(theirs).values(submitted_with=None))
        token.revoked_at = func.clock_timestamp()
        becomes = "goes on" if keep_submitted else "does not begin any more"
        what = f"an operator revoked token {number} of {token.user}; what was submitted with it {becomes}"
        decision_log.add(session, what)
    return token


def holder(text: str) -> ApiToken | None:
    """The valid token with this text."""
    return _used(ApiToken.digest == _digest(text))


def signer(signature: signatures.Signature, message: bytes) -> ApiToken | None:
    """The valid token that this message was signed with."""
    return _used(ApiToken.id == signature.token, lambda token: signature.is_of(token.submission_key, message))


def _used(which: ColumnElement[bool], proven: Callable[[ApiToken], bool] = lambda token: True) -> ApiToken | None:
    """That token, if it is valid and was proven; it is noted that it was used."""
    now = func.clock_timestamp()
    valid = (ApiToken.revoked_at.is_(None), ApiToken.ends_at.is_(None) | (ApiToken.ends_at > now))
    with transaction() as session:
        token = session.scalar(select(ApiToken).where(which, *valid))
        if token is not None and not proven(token):
            return None
        if token is not None:
            stale = ApiToken.used_at.is_(None) | (ApiToken.used_at < now - timedelta(minutes=1))
            noted = select(ApiToken.id).where(ApiToken.id == token.id, stale).with_for_update(skip_locked=True)
            session.execute(update(ApiToken).where(ApiToken.id.in_(noted)).values(used_at=now))
    return token


def allow(user: str, scope: Scope) -> None:
    """Let somebody do this in the console.

    Raises:
        PreconditionFailed: nobody can be called that.
    """
    check_user(user)
    with transaction() as session:
        session.merge(ConsoleUser(name=user, scope=scope))
        decision_log.add(session, f"an operator lets {user} {scope} in the console")


def people() -> list[ConsoleUser]:
    """Those who may do more than read."""
    with transaction() as session:
        return list(session.scalars(select(ConsoleUser).order_by(ConsoleUser.name)))


def scope_of(user: str) -> Scope:
    """What somebody may do in the console."""
    with transaction() as session:
        known = session.get(ConsoleUser, user)
    return Scope.READ if known is None else known.scope


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
