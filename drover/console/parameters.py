"""Parameters that routes of several modules take, and those that none takes."""

from typing import Annotated, Any

from fastapi import Depends, Path, Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from drover import words
from drover.console.access import Denied
from models import contracts

Number = Annotated[int, Path(ge=1, lt=1 << 63)]
"""Of a row: Postgres counts no further."""


def of_query(route: APIRoute) -> list[Any]:
    """Those that a route takes in the query."""
    return [field for field in get_flat_params(route.dependant) if isinstance(field.field_info, Query)]


async def known_ones(request: Request) -> None:
    """A dependency: the query has no parameter that the route does not know, which would be overlooked.

    Raises:
        Denied: it has.
    """
    known = [field.alias for field in of_query(request.scope["route"])]
    for name in request.query_params:
        if name not in known:
            those = f"it takes {', '.join(known)}" if known else "it takes none"
            said = f"there is no parameter {contracts.shown(name)} here: {words.did_you_mean(name, known)}{those}"
            raise Denied(400, said)


KnownOnes = Depends(known_ones)
