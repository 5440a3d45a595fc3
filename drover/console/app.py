"""The application: pages, their files, what every answer carries, and how errors are told."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from kombu.exceptions import OperationalError as BrokerUnreachable
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from drover.console import actions as action_routes
from drover.console import api, buttons, pages
from drover.console.access import Denied
from drover.console.failures import CODES, PREFIX
from drover.console.rendering import page
from drover.errors import NotPermitted, NotThere, PreconditionFailed, Unavailable, UnreadableDocument
from drover.settings import Settings
from models import contracts

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; "
    "form-action 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
CLOSE = {"Connection": "close"}
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Hardened:
    """Adds `HEADERS` to each answer; browsers and proxies keep no page."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        caching = "no-cache" if scope.get("path", "").startswith("/static/") else "no-store"
        ours = [(name.encode(), text.encode()) for name, text in {**HEADERS, "Cache-Control": caching}.items()]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                taken = {name.lower() for name, _ in ours}
                message["headers"] = [kept for kept in message["headers"] if kept[0].lower() not in taken] + ours
            await send(message)

        await self.app(scope, receive, sending)


MOST_BYTES = 2 << 20
"""Of a request's body, which is read before anybody asks whose it is; a plan of thousands of guests has less."""


class Bounded:
    """Refuses a body that is larger than any that means something."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        taken = 0

        async def receiving() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MOST_BYTES:
                raise Denied(413, f"the body has more than {MOST_BYTES} bytes, nothing was changed", CLOSE)
            return message

        await self.app(scope, receiving, send)


def make(*hosts: str, actions: bool = False, people_by: str | None = None, ours: Settings | None = None) -> FastAPI:
    """The console, for browsers that call it by one of these names; `*` is any. `actions`: things can be changed.

    `people_by` is the header in which a reverse proxy says who looks at a page; people sign in where
    these settings name a provider.
    """
    made = FastAPI(
        title="Drover",
        version="1",
        description="Hosts, guests, moves, drains and what waits for a person; what may be changed, with a token.",
        docs_url=None,  # that page would fetch its parts from elsewhere
        redoc_url=None,
        openapi_url=f"{PREFIX}/openapi.json",
    )
    made.include_router(api.router)
    if actions:
        made.include_router(action_routes.router)
    made.state.people_by = people_by if actions else None
    made.state.signed_in = None
    signs_in = ours is not None and bool(ours.oidc_issuer)
    made.include_router(pages.router)
    if actions and (people_by or signs_in):
        made.include_router(buttons.router)
    if ours is not None and signs_in:
        _have_people_sign_in(made, ours)
    made.mount("/static", StaticFiles(packages=[("drover.console", "static")]), name="static")
    made.add_middleware(Bounded)
    made.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    made.add_middleware(Hardened)
    made.add_exception_handler(PreconditionFailed, _refused)
    made.add_exception_handler(RequestValidationError, _bad_request)
    made.add_exception_handler(UnreadableDocument, _unreadable)
    made.add_exception_handler(HTTPException, _http_error)
    made.add_exception_handler(SQLAlchemyError, _away)
    made.add_exception_handler(BrokerUnreachable, _broker_away)
    return made


def _have_people_sign_in(made: FastAPI, ours: Settings) -> None:
    from drover.console import sign_in  # Authlib is large, and few need it

    sign_in.install(made, ours)
    made.state.signed_in = sign_in.signed_in


NO_OBJECT = "the body is not understood: a JSON object is wanted"
NOWHERE = "There is no such page, or not for this kind of request; without --actions nothing can be changed here."


def _told(request: Request, status: int, title: str, sentence: str, **more: object) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": {"code": CODES.get(status, "failed"), "message": sentence, **more}}, status)
    return page(request, "error.html", status=status, title=title, sentence=sentence)


def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, NotPermitted):
        return _told(request, 403, "Refused", str(error))
    if isinstance(error, NotThere):
        return _told(request, 404, "Not found", str(error))
    if isinstance(error, Unavailable):
        return _told(request, 503, "No answer", str(error))
    checks = [check.json_object() for check in getattr(error, "checks", ())]
    return _told(request, 409, "Refused", str(error), **({"checks": checks} if checks else {}))


def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fault = next((one for one in error.errors() if one["loc"][0] == "body"), error.errors()[0])
    where = ".".join(map(str, fault["loc"][1:]))
    if fault["loc"][0] == "body" and (not where or fault["type"] == "json_invalid"):
        return _told(request, 400, "Not understood", NO_OBJECT)
    return _told(request, 400, "Not understood", contracts.sentence(fault, where))


def _unreadable(request: Request, error: Exception) -> Response:
    """A document within the body is of a later version."""
    return _told(request, 400, "Not understood", str(error))


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title = "Not found" if status == 404 else "Refused"
    sentence = error.detail if isinstance(error, Denied) else NO_OBJECT if status == 400 else NOWHERE
    told = _told(request, status, title, sentence)
    told.headers.update(getattr(error, "headers", None) or {})
    return told


def _broker_away(request: Request, _: Exception) -> Response:
    told = "Redis does not answer, nothing was changed. Guests and moves go on; try it again once it does."
    return _told(request, 503, "The broker does not answer", told)


def _away(request: Request, _: Exception) -> Response:
    told = "Postgres does not answer. Guests and moves go on; this page loads again once it does."
    return _told(request, 503, "The database does not answer", told)
