"""Who asks, and what they may do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from models.access import Scope
from workflows import access

BEARER = HTTPBearer(auto_error=False, description="A token of `drover token add`.")
Given = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]


class Denied(HTTPException):
    """Who asks is not known, or may not do that; one sentence says what to do."""


@dataclass(frozen=True)
class Person:
    """Somebody who is known."""

    name: str
    scope: Scope
    by: str
    """As stories of jobs name them."""


def by_token(given: Given) -> Person | None:
    """Whose token it is; None where none is given.

    Raises:
        Denied: it is none that is valid.
    """
    if given is None:
        return None
    token = access.holder(given.credentials)
    if token is None:
        raise Denied(401, "the token is not valid: `drover token list` says which are", {"WWW-Authenticate": "Bearer"})
    return Person(token.user, token.scope, f"{token.user} (API)")


def permitted(scope: Scope) -> Callable[[Request, Person | None], Person]:
    """A dependency: somebody who may do this.

    Raises:
        Denied: nobody is named, or may not, or nothing can be changed here at all.
    """

    def check(request: Request, person: Annotated[Person | None, Depends(by_token)]) -> Person:
        if not request.app.state.actions:
            raise Denied(403, "nothing can be changed here: this console was started without --actions")
        if person is None:
            raise Denied(401, "a token is needed: `drover token add USER`", {"WWW-Authenticate": "Bearer"})
        if not person.scope.includes(scope):
            raise Denied(403, f"{person.name} may {person.scope} only, and this needs `{scope}`")
        return person

    return check


Reader = Depends(by_token)
Operator = Annotated[Person, Depends(permitted(Scope.OPERATE))]
Approver = Annotated[Person, Depends(permitted(Scope.APPROVE))]
