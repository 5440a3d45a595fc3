"""Parts of the page about the HTTP API: its paths, who may, what they take and answer."""

import inspect
import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import product
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel

from drover.console import actions, api, failures
from drover.console.access import Approver, Judged, Operator, Reader
from drover.console.parameters import of_query
from lab.pages.contracts import SUBMISSIONS, section
from lab.pages.markdown import one_line, replaced, table
from models.access import Scope
from workflows.drain.plan_file import PlanFile

SCOPES = {Reader: Scope.READ, Judged: Scope.OPERATE, Operator: Scope.OPERATE, Approver: Scope.APPROVE}


def page(text: str) -> str:
    """The page, with the tables as they are now."""
    reading = ((f"`{path}`", told) for path, _, told in _rows(api.router))
    changing = ((scope, f"`{path}`", told) for path, scope, told in _rows(actions.router))
    codes = ((str(status), f"`{code}`") for status, code in failures.CODES.items())
    parts = {
        "reading": table(("path", "answers"), reading),
        "parameters": table(("parameter", "what it is"), sorted(dict(_parameters()).items())),
        "errors": table(("status", "code"), codes),
        "changes": table(("scope", "path", "does"), changing),
        "bodies": "\n".join(line for kind in _bodies() for line in section(kind, values=False)),
    }
    parts["bodies"] = parts["bodies"].replace("](#", "](contracts.md#")
    for name, part in parts.items():
        text = replaced(text, name, part.rstrip())
    return text


def _routes(router: APIRouter) -> list[APIRoute]:
    return [route for route in router.routes if isinstance(route, APIRoute)]


def _rows(router: APIRouter) -> Iterator[tuple[str, str, str]]:
    """Path, scope and what is told of it; a path for each value that a part of it may have."""
    for route in _routes(router):
        hints = get_type_hints(route.endpoint, include_extras=True)
        scope = next((SCOPES[kind] for kind in hints.values() if kind in SCOPES), "")
        told = f"{one_line(inspect.getdoc(route.endpoint) or '')}{_chosen(hints)}{_taken(route)}"
        method = " ".join(route.methods or ())
        paths = ", ".join(_paths(route.path.removeprefix(failures.PREFIX), hints))
        yield f"{method} {paths}", scope, told


def _paths(path: str, hints: dict[str, Any]) -> Iterator[str]:
    names = re.findall(r"\{(\w+)\}", path)
    allowed = [get_args(hints[name]) if get_origin(hints[name]) is Literal else (_named(name),) for name in names]
    for values in product(*allowed):
        yield path.format(**dict(zip(names, values, strict=True)))


def _named(name: str) -> str:
    return {"number": "ID"}.get(name, name.upper())


def _chosen(hints: dict[str, Any]) -> str:
    """What a part of a path may be that has many values."""
    many = {name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, StrEnum)}
    return "".join(f" {name.upper()} is {', '.join(f'`{one}`' for one in kind)}." for name, kind in many.items())


def _taken(route: APIRoute) -> str:
    """Its parameters, and what its body is."""
    names = [f"`{field.alias}`" for field in of_query(route)]
    told = f" Takes {', '.join(names)}." if names else ""
    kind = _body(route)
    if kind is None:
        return told
    where = "cli.md#plans" if kind is PlanFile else f"{'contracts.md' * (kind in SUBMISSIONS)}#{kind.__name__.lower()}"
    return f"{told} Body: [{kind.__name__}]({where})."


def _body(route: APIRoute) -> type[BaseModel] | None:
    kind = route.body_field.field_info.annotation if route.body_field is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _bodies() -> list[type[BaseModel]]:
    """Those that are described nowhere else, in the order of their names."""
    found = {kind for route in _routes(actions.router) if (kind := _body(route)) is not None}
    return sorted(found - {*SUBMISSIONS, PlanFile}, key=lambda kind: kind.__name__)


def _parameters() -> Iterator[tuple[str, str]]:
    for router in (api.router, actions.router):
        for route in _routes(router):
            for field in of_query(route):
                yield f"`{field.alias}`", field.field_info.description or ""
