"""People sign in with an OpenID Connect provider: who they are and what they may do is in its signed token.

Authlib does the exchange: code flow with PKCE, state, nonce, and the token's signature, issuer, audience and times. A
session is a signed cookie that this site's pages alone get, for `LASTS`.
"""

import time
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.starlette_client import OAuth
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from joserfc.errors import JoseError
from starlette.middleware.sessions import SessionMiddleware

from drover.console.access import Denied, NotSignedIn, from_this_site, not_too_often
from drover.console.rendering import page
from drover.settings import Settings
from models.access import Scope
from workflows import access
from workflows.permissions import Person

LASTS = timedelta(hours=8)
COOKIE = "__Host-drover"
"""Browsers keep a cookie with this prefix for this very host, and only if it is `Secure`."""
router = APIRouter(include_in_schema=False)


def install(app: FastAPI, ours: Settings) -> None:
    """Have people sign in before they see a page."""
    oauth = OAuth()
    app.state.settings = ours
    app.state.oidc = oauth.register(
        "provider",
        client_id=ours.oidc_client_id,
        client_secret=ours.oidc_client_secret,
        server_metadata_url=f"{ours.oidc_issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid profile email", "code_challenge_method": "S256"},
    )
    app.include_router(router)
    app.add_exception_handler(NotSignedIn, _ask)
    app.add_middleware(
        SessionMiddleware,
        secret_key=ours.console_key,
        session_cookie=COOKIE,
        max_age=int(LASTS.total_seconds()),
        same_site="lax",  # the provider sends people back here by a link
        https_only=True,
    )


def signed_in(request: Request) -> Person:
    """Who looks at a page.

    Raises:
        NotSignedIn: nobody knows.
    """
    said = request.session.get("person")
    if said is None or said["until"] < time.time():
        raise NotSignedIn
    return Person(said["name"], Scope(said["scope"]), f"{said['name']} (console)")


def _ask(request: Request, _: Exception) -> Response:
    """A page is shown after signing in; whatever else was asked for is not done."""
    if request.method == "GET" and not request.url.path.startswith("/live/"):
        request.session["next"] = request.url.path
        return RedirectResponse("/sign-in", 303)
    return Response("sign in first, nothing was changed", 401, media_type="text/plain")


@router.get("/sign-in")
async def begin(request: Request) -> Response:
    """Send somebody to the provider."""
    address = request.client.host if request.client else ""
    not_too_often(address)
    callback = f"{request.app.state.settings.console_url.rstrip('/')}/sign-in/done"
    try:
        await _same_issuer(request)
        answer: Response = await request.app.state.oidc.authorize_redirect(request, callback)
    except httpx.HTTPError as error:
        raise Denied(503, "the provider that people sign in with does not answer: try again later") from error
    return answer


@router.get("/sign-in/done")
async def finish(request: Request, error: Annotated[str, Query(max_length=128)] = "") -> Response:
    """Take what the provider says of somebody who comes back from it."""
    if error:
        raise Denied(
            403, f"you were not signed in: the provider says {error!r}. Sign in again, or ask its administrator"
        )
    try:
        token = await request.app.state.oidc.authorize_access_token(request)
    except (AuthlibBaseError, JoseError, KeyError, ValueError) as fault:
        raise Denied(403, "you were not signed in: the answer does not belong to this sign-in; begin anew") from fault
    except httpx.HTTPError as fault:
        raise Denied(503, "the provider that people sign in with does not answer: try again later") from fault
    claims = dict(token.get("userinfo") or {})
    if not claims:
        raise Denied(403, "you were not signed in: the provider has signed nothing about you")
    person = _person(claims, request.app.state.settings.oidc_claim)
    shown = request.session.get("next", "/")
    request.session.clear()  # nothing of before counts any more
    until = time.time() + LASTS.total_seconds()
    request.session["person"] = {"name": person.name, "scope": person.scope.value, "until": until}
    return RedirectResponse(shown if _is_ours(shown) else "/", 303)


@router.post("/sign-out", dependencies=[Depends(from_this_site)])
def leave(request: Request) -> HTMLResponse:
    """Forget who it was."""
    request.session.clear()
    return page(request, "signed_out.html", waiting=0)


async def _same_issuer(request: Request) -> None:
    """The document must be the issuer's own: another's tokens would be believed."""
    metadata = await request.app.state.oidc.load_server_metadata()
    if metadata.get("issuer", "").rstrip("/") != request.app.state.settings.oidc_issuer.rstrip("/"):
        raise Denied(503, "the provider calls itself otherwise than DROVER_OIDC_ISSUER: nobody can sign in")


def _person(claims: dict[str, Any], claim: str) -> Person:
    """Who it is, and the most that one of their roles permits.

    Raises:
        Denied: they have no role here, or no name that can be used.
    """
    name = next((str(claims[of]) for of in ("preferred_username", "email", "sub") if claims.get(of)), "")
    if access.USER.fullmatch(name) is None:
        raise Denied(403, f"you cannot be called {name[:80]!r} here: a name has {access.ALLOWED}")
    said = claims.get(claim, ())
    roles = {said} if isinstance(said, str) else set(map(str, said))
    for scope in reversed(Scope):
        if f"drover-{scope}" in roles:
            return Person(name, scope, f"{name} (console)")
    raise Denied(403, f"{name} may not look here: the claim {claim!r} names none of drover-read, -operate, -approve")


def _is_ours(path: str) -> bool:
    parts = urlsplit(path)
    return path.startswith("/") and not path.startswith(("//", "/\\")) and not (parts.scheme or parts.netloc)
