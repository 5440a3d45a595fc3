"""Who asks, and what they may do."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from models.access import Scope
from workflows import access, permissions
from workflows.permissions import Person

BEARER = HTTPBearer(auto_error=False, description="A token of `drover token add`.")
ASKED = {"WWW-Authenticate": "Bearer"}


class Denied(HTTPException):
    """Who asks is not known, or may not do that; one sentence says what to do."""


class NotSignedIn(Exception):
    """Nobody knows who asks; they may sign in."""


async def by_token(request: Request) -> Person | None:
    """Whose token it is; None where none is given. Who only reads needs none, but not one that is wrong.

    Raises:
        Denied: it is none that is valid.
    """
    given = await BEARER(request)
    if given is None and request.app.state.signed_in is not None:
        raise Denied(401, "a token is needed: `drover token add USER`", ASKED)
    if given is None:
        return None
    token = await run_in_threadpool(access.holder, given.credentials)
    if token is None:
        not_too_often(request.client.host if request.client else "", GUESSES)
        raise Denied(401, "the token is not valid: `drover token list` says which are", ASKED)
    person = Person.of(token, "API")
    request.state.person = person
    return person


def known(person: Annotated[Person | None, Depends(by_token)]) -> Person:
    """A dependency: somebody who has a token.

    Raises:
        Denied: nobody is named, or does too much.
    """
    if person is None:
        raise Denied(401, "a token is needed: `drover token add USER`", ASKED)
    not_too_often(person.name)
    return person


def permitted(scope: Scope) -> Callable[[Person], Person]:
    """A dependency: somebody who may do this, whatever it is about.

    Raises:
        Denied: nobody is named, or does too much.
        NotPermitted: they may not.
    """

    def check(person: Annotated[Person, Depends(known)]) -> Person:
        permissions.judge(person, scope)
        return person

    return check


def allow(person: Person, scope: Scope) -> None:
    """Let somebody do what needs this scope.

    Raises:
        Denied: they do too much.
        NotPermitted: they may not.
    """
    permissions.judge(person, scope)
    not_too_often(person.name)


def visitor(request: Request) -> Person | None:
    """Who looks at a page: who has signed in, or whom the reverse proxy names. None where neither is asked for.

    Raises:
        NotSignedIn: nobody has.
        Denied: the proxy names nobody, which it must not let through.
    """
    signed_in: Callable[[Request], Person] | None = request.app.state.signed_in
    if signed_in is not None:
        request.state.person = signed_in(request)
        return signed_in(request)
    header: str | None = request.app.state.people_by
    if header is None:
        return None
    name = request.headers.get(header, "")
    if access.USER.fullmatch(name) is None:
        raise Denied(403, f"the reverse proxy does not say who you are: it has to set {header}")
    person = Person(name, access.scope_of(name), f"{name} (console)")
    request.state.person = person
    return person


def from_this_site(request: Request) -> None:
    """A form of another site must not act for whoever looks at it: browsers say where a request is from.

    Raises:
        Denied: it is from elsewhere, or nothing says where from.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin", "")
    same = site == "same-origin" if site is not None else urlsplit(origin).netloc == request.headers.get("Host")
    if not same:
        raise Denied(403, "this came from another site, nothing was changed: use the buttons of these pages")


ACTIONS, GUESSES = parse("600/minute"), parse("20/minute")
"""Of one person, and of one address that shows no valid token."""
LIMITER = FixedWindowRateLimiter(MemoryStorage())


def not_too_often(who: str, rate: RateLimitItem = ACTIONS) -> None:
    """Bound what somebody may ask for.

    Raises:
        Denied: too often.
    """
    if not LIMITER.hit(rate, who):
        raise Denied(429, "too often: wait a minute", {"Retry-After": "60"})


MOST_STREAMS = 100
"""Of events, that one person, or one address of nobody who is known, may follow at a time: a connection each, and the
console takes no more than `serving.MOST_CONNECTIONS` from all."""
_followed: Counter[str] = Counter()


async def following(request: Request) -> AsyncIterator[None]:
    """A dependency: somebody follows one more stream of events, until they hang up.

    Raises:
        Denied: that would be too many.
    """
    person: Person | None = getattr(request.state, "person", None)
    who = person.name if person is not None else request.client.host if request.client else ""
    if _followed[who] >= MOST_STREAMS:
        raise Denied(429, f"{MOST_STREAMS} streams of events are open already: close some", {"Retry-After": "60"})
    _followed[who] += 1
    try:
        yield
    finally:
        _followed[who] -= 1
        if not _followed[who]:
            del _followed[who]  # addresses come and go


Known = Depends(by_token)
Follows = Depends(following)
Described = Security(BEARER)
"""For OpenAPI: a token is needed."""
Judged = Annotated[Person, Depends(known)]
"""Somebody of whom `permissions` is asked with what it is about."""
Reader = Annotated[Person, Depends(permitted(Scope.READ))]
Operator = Annotated[Person, Depends(permitted(Scope.OPERATE))]
Approver = Annotated[Person, Depends(permitted(Scope.APPROVE))]
