"""Who asks, and what they may do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer

from models.access import Scope
from workflows import access

BEARER = HTTPBearer(auto_error=False, description="A token of `drover token add`.")
ASKED = {"WWW-Authenticate": "Bearer"}


class Denied(HTTPException):
    """Who asks is not known, or may not do that; one sentence says what to do."""


@dataclass(frozen=True)
class Person:
    """Somebody who is known."""

    name: str
    scope: Scope
    by: str
    """As stories of jobs name them."""


async def by_token(request: Request) -> Person | None:
    """Whose token it is; None where none is given. Who only reads needs none, but not one that is wrong.

    Raises:
        Denied: it is none that is valid.
    """
    given = await BEARER(request)
    if given is None:
        return None
    token = await run_in_threadpool(access.holder, given.credentials)
    if token is None:
        raise Denied(401, "the token is not valid: `drover token list` says which are", ASKED)
    return Person(token.user, token.scope, f"{token.user} (API)")


def permitted(scope: Scope) -> Callable[[Person | None], Person]:
    """A dependency: somebody who may do this.

    Raises:
        Denied: nobody is named, or may not.
    """

    def check(person: Annotated[Person | None, Depends(by_token)]) -> Person:
        if person is None:
            raise Denied(401, "a token is needed: `drover token add USER`", ASKED)
        if not person.scope.includes(scope):
            raise Denied(403, f"{person.name} may {person.scope} only, and this needs `{scope}`")
        return person

    return check


Reader = Depends(by_token)
Described = Security(BEARER)
"""For OpenAPI: a token is needed."""
Operator = Annotated[Person, Depends(permitted(Scope.OPERATE))]
Approver = Annotated[Person, Depends(permitted(Scope.APPROVE))]
