"""`Operations` by the HTTP API of `drover console --actions`: this machine needs neither database nor broker."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from drover import listening
from drover.errors import DroverError, NotThere, PreconditionFailed, Unreachable
from drover.operations import DrainAction, HostAction, JobAction, SubmittedDrain, Wanted
from drover.views import read_back
from drover.views.drain_queries import DrainShot
from drover.views.queries import Snapshot
from models.base import Document
from models.drain import DrainKind
from models.job import Side
from models.preflight import Check
from workflows.migration.jobs import Changes
from workflows.submissions import DrainSubmission, MigrationSubmission

TIMEOUT = httpx.Timeout(10, read=150)
"""Of one request. Hosts are asked before a move is taken on."""
PATHS = {DrainKind.DRAIN: "drains", DrainKind.RETURN: "returns"}


class ApiRefused(PreconditionFailed):
    """The API refused something.

    Args:
        message: its sentence.
        checks: what is against moving a guest, if that is why.
    """

    def __init__(self, message: str, checks: tuple[Check, ...] = ()) -> None:
        super().__init__(message)
        self.checks = checks


class ByApi:
    """By a console.

    Args:
        address: of the console, like https://drover.example.org.
        token: what `drover token add` has printed; empty: none.

    Raises:
        PreconditionFailed: the address cannot be used, or a token would be readable on its way there.
    """

    def __init__(self, address: str, token: str) -> None:
        _check(address, token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.address = address.rstrip("/")
        self._client = httpx.Client(base_url=f"{self.address}/api/v1", headers=headers, timeout=TIMEOUT)

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()

    def hosts(self, selector: str | None) -> list[Document]:
        return _rows(self._get("/hosts", selector=selector), "hosts")

    def on_host(self, name: str, action: HostAction) -> Document:
        host = self._post(f"/hosts/{quote(name, safe='')}/{action}")
        return {"name": host["name"], "state": host["state"]}

    def guests(self, selector: str | None) -> list[Document]:
        return _rows(self._get("/guests", selector=selector), "guests")

    def guest(self, name: str) -> Document:
        return self._get(f"/guests/{quote(name, safe='')}")

    def jobs(self, wanted: Wanted) -> list[Document]:
        return _rows(self._get("/jobs", **_listing(wanted), guest=wanted.guest), "jobs")

    def job(self, number: int) -> Document:
        return self._get(f"/jobs/{number}")

    def job_shot(self, number: int) -> Snapshot:
        return read_back.job_shot(self.job(number))

    def job_of_key(self, key: str) -> int:
        return int(self._get("/submissions/job", key=key)["id"])

    def explanation(self, number: int) -> Document:
        return self._get(f"/jobs/{number}/events")

    def try_migration(self, asked: MigrationSubmission) -> Document:
        return self._post("/migrations/dry-run", _said(asked))

    def migrate(self, asked: MigrationSubmission) -> Document:
        return self._post("/migrations", _said(asked))

    def on_job(self, number: int, action: JobAction) -> Document:
        return self._post(f"/jobs/{number}/{action}")

    def change_job(self, number: int, changes: Changes) -> Document:
        return self._post(f"/jobs/{number}/set", _changed(changes))

    def resolve(self, number: int, owner: Side, fenced: str | None) -> Document:
        return self._post(f"/jobs/{number}/resolve", {"owner": owner.value, "fenced": fenced})

    def price(self, number: int) -> Document:
        return self._get(f"/jobs/{number}/price")

    def complete_now(self, number: int, pause_s: float) -> Document:
        return self._post(f"/jobs/{number}/complete-now", {"pause_s": pause_s})

    def drains(self, wanted: Wanted) -> list[Document]:
        return _rows(self._get("/drains", **_listing(wanted)), "drains")

    def drain(self, number: int) -> Document:
        return self._get(f"/drains/{number}")

    def drain_shot(self, number: int) -> DrainShot:
        return read_back.drain_shot(self.drain(number))

    def drain_of_key(self, key: str) -> int:
        return int(self._get("/submissions/drain", key=key)["id"])

    def try_drain(self, kind: DrainKind, asked: DrainSubmission) -> Document:
        return self._post(f"/{PATHS[kind]}/dry-run", _said(asked))

    def submit_drain(self, kind: DrainKind, asked: DrainSubmission) -> SubmittedDrain:
        answer = self._post(f"/{PATHS[kind]}", _said(asked))
        return SubmittedDrain(document=answer, forecast=answer.pop("forecast", None))

    def on_drain(self, number: int, action: DrainAction) -> Document:
        return self._post(f"/drains/{number}/{action}")

    def change_drain(self, number: int, changes: Changes) -> Document:
        return self._post(f"/drains/{number}/set", _changed(changes))

    def _get(self, path: str, **query: object) -> Document:
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self._ask("GET", path, params=given)

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Document:
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **said: Any) -> Document:
        try:
            answer = self._client.request(method, path, **said)
            document = answer.json()
        except httpx.TransportError as error:
            raise Unreachable(
                f"the API at {self.address} cannot be reached ({error}): is `drover console` running, and is "
                "DROVER_API_URL right? Guests and moves go on"
            ) from error
        except ValueError as error:
            raise Unreachable(_no_answer_of_ours(self.address, answer.status_code)) from error
        if answer.is_success and isinstance(document, dict):
            return document
        raise _refusal(document, answer.status_code, self.address)


def _check(address: str, token: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
        raise PreconditionFailed(f"DROVER_API_URL is {address!r}: write it as https://drover.example.org")
    if token and parts.scheme == "http" and not listening.only_here(parts.hostname):
        raise PreconditionFailed(
            f"DROVER_API_URL is {address!r}: everybody on the way there could read the token, write it with https://"
        )


def _refusal(document: Any, status: int, address: str) -> DroverError:
    told = document.get("error") if isinstance(document, dict) else None
    if not isinstance(told, dict) or "message" not in told:
        return Unreachable(_no_answer_of_ours(address, status))
    message = str(told["message"])
    if status == httpx.codes.NOT_FOUND:
        return NotThere(message)
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        return Unreachable(message)
    return ApiRefused(message, tuple(map(Check.model_validate, told.get("checks", ()))))


def _no_answer_of_ours(address: str, status: int) -> str:
    return (
        f"{address} answers with status {status} and not as Drover's API does: DROVER_API_URL is to name a console, "
        "and a proxy before it must let /api/v1 pass with its token"
    )


def _listing(wanted: Wanted) -> dict[str, object]:
    since = None if wanted.since is None else wanted.since.total_seconds()
    everything = 1 if wanted.everything else None
    return {"all": everything, "selector": wanted.selector, "since_s": since, "limit": wanted.limit}


def _said(asked: MigrationSubmission | DrainSubmission) -> Document:
    """What was asked for alone: policies decide the rest."""
    return asked.model_dump(mode="json", exclude_unset=True)


def _changed(changes: Changes) -> Document:
    told = {name: value for name, value in vars(changes).items() if value is not None}
    if changes.window == "always":
        return told | {"window": ""}
    if changes.window is None:
        return told
    return told | {"window": f"{changes.window.start}-{changes.window.end}", "timezone": changes.window.timezone}


def _rows(document: Document, name: str) -> list[Document]:
    return list(document[name])
