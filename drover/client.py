"""`Operations` by the HTTP API of `drover console --actions`: this machine needs neither database nor broker."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from drover import listening, words
from drover.errors import DroverError, NotThere, PreconditionFailed, Unreachable
from drover.operations import (
    DrainAction,
    HostAction,
    JobAction,
    PlanAction,
    Reported,
    RollAction,
    SubmittedDrain,
    Wanted,
)
from drover.views import read_back
from drover.views.drain_queries import DrainShot
from drover.views.queries import Snapshot
from drover.views.rolls import RollShot
from models.base import Document
from models.contracts import Part
from models.documents import Window
from models.drain import DrainKind
from models.job import Side
from models.preflight import Check
from workflows.descriptions import GuestDescription, HostDescription
from workflows.drain.plan_file import PlanFile
from workflows.kept_images import Which
from workflows.migration.jobs import Changes
from workflows.submissions import DrainSubmission, MigrationSubmission, RollSubmission

TIMEOUT = httpx.Timeout(10, read=150)
"""Of one request. Hosts are asked before a move is taken on."""
MOST_JOBS = 1000
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

    def overrule(self, number: int, guest: str) -> Document:
        return self._post(f"/drains/{number}/guests/{quote(guest, safe='')}/overrule")

    def report(self, kind: Reported, number: int) -> Document:
        return self._get(f"/{kind}s/{number}/report")

    def report_page(self, kind: Reported, number: int) -> str:
        """One HTML page, to be kept."""
        answer = self._sent("GET", f"/{kind}s/{number}/report.html")
        if not answer.is_success:
            raise _refusal(_read(answer, self.address), answer.status_code, self.address)
        return answer.text

    def draft_plan(self, kind: DrainKind, asked: DrainSubmission) -> Document:
        return self._post(f"/{PATHS[kind]}/plan", _said(asked))

    def look_at_plan(self, plan: PlanFile) -> Document:
        return self._post("/plans/look", plan.json_object())

    def try_plan(self, plan: PlanFile) -> Document:
        return self._post("/plans/dry-run", plan.json_object())

    def submit_plan(self, plan: PlanFile) -> Document:
        return self._post("/plans", plan.json_object())

    def apply_plan(self, plan: PlanFile) -> Document:
        return self._post("/plans/apply", plan.json_object())

    def plans(self, wanted: Wanted) -> list[Document]:
        return _rows(self._get("/plans", **_listing(wanted)), "plans")

    def plan(self, number: int) -> Document:
        return self._get(f"/plans/{number}")

    def on_plan(self, number: int, action: PlanAction) -> Document:
        return self._post(f"/plans/{number}/{action}")

    def rolls(self, wanted: Wanted) -> list[Document]:
        return _rows(self._get("/rolls", **_listing(wanted)), "rolls")

    def roll(self, number: int) -> Document:
        return self._get(f"/rolls/{number}")

    def roll_shot(self, number: int) -> RollShot:
        return read_back.roll_shot(self.roll(number))

    def try_roll(self, asked: RollSubmission) -> Document:
        return self._post("/rolls/dry-run", _said(asked))

    def submit_roll(self, asked: RollSubmission) -> Document:
        return self._post("/rolls", _said(asked))

    def on_roll(self, number: int, action: RollAction) -> Document:
        return self._post(f"/rolls/{number}/{action}")

    def change_roll(self, number: int, max_unavailable: int) -> Document:
        return self._post(f"/rolls/{number}/set", {"max_unavailable": max_unavailable})

    def images(self, which: Which, selector: str | None) -> Document:
        return self._get("/images", **_which(which), selector=selector)

    def purge(self, which: Which, *, last_way_back: bool, dry_run: bool) -> Document:
        how = {"everything": which.all, "last_way_back": last_way_back, "dry_run": dry_run}
        return self._post("/images/purge", _which(which) | how)

    def describe_guest(self, name: str, said: GuestDescription) -> Document:
        return self._post(f"/guests/{quote(name, safe='')}/set", _said(said))

    def adopt(self, name: str, host: str, qmp: str) -> Document:
        return self._post(f"/guests/{quote(name, safe='')}/adopt", {"host": host, "qmp": qmp})

    def forget(self, name: str) -> Document:
        return self._post(f"/guests/{quote(name, safe='')}/forget")

    def qemus(self, host: str, *, adopt: bool) -> Document:
        path = f"/hosts/{quote(host, safe='')}/qemus"
        return self._post(f"{path}/adopt") if adopt else self._get(path)

    def trust(self, host: str) -> Document:
        return self._post(f"/hosts/{quote(host, safe='')}/trust")

    def reconcile(self, guest: str | None, *, dry_run: bool) -> Document:
        unfinished = self.jobs(Wanted(limit=MOST_JOBS)) if guest is None else [{"guest": guest}]
        names = sorted({job["guest"] for job in unfinished})
        answers = (self._post(f"/guests/{quote(name, safe='')}/reconcile", {"dry_run": dry_run}) for name in names)
        return {"jobs": [job for answer in answers for job in answer["jobs"]]}

    def describe_host(self, name: str, said: HostDescription) -> Document:
        return self._post(f"/hosts/{quote(name, safe='')}/set", _said(said))

    def ok_to_drain(self, name: str, window: Window | None) -> Document:
        return self._get(f"/hosts/{quote(name, safe='')}/ok-to-drain", **_hours(window))

    def headroom(self, selector: str | None, window: Window | None) -> list[Document]:
        return _rows(self._get("/headroom", selector=selector, **_hours(window)), "hosts")

    def _get(self, path: str, **query: object) -> Document:
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self._ask("GET", path, params=given)

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Document:
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **said: Any) -> Document:
        answer = self._sent(method, path, **said)
        document = _read(answer, self.address)
        if answer.is_success and isinstance(document, dict):
            return document
        raise _refusal(document, answer.status_code, self.address)

    def _sent(self, method: str, path: str, **said: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **said)
        except httpx.TransportError as error:
            why = words.first_line(error)
            raise Unreachable(
                f"the API at {self.address} cannot be reached ({why}): is `drover console` running, and is "
                "DROVER_API_URL right? Guests and moves go on"
            ) from error


def _read(answer: httpx.Response, address: str) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise Unreachable(_no_answer_of_ours(address, answer.status_code)) from error


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


def _said(asked: Part) -> Document:
    """What was asked for alone: policies decide the rest, or it stays."""
    return asked.model_dump(mode="json", exclude_unset=True)


def _changed(changes: Changes) -> Document:
    told = {name: value for name, value in vars(changes).items() if value is not None}
    if changes.window == "always":
        return told | {"window": ""}
    return told if changes.window is None else told | _hours(changes.window)


def _which(which: Which) -> Document:
    older = None if which.older_than is None else which.older_than.total_seconds()
    return {"guest": which.guest, "host": which.host, "job": which.job, "older_than_s": older}


def _hours(window: Window | None) -> Document:
    return {} if window is None else {"window": f"{window.start}-{window.end}", "timezone": window.timezone}


def _rows(document: Document, name: str) -> list[Document]:
    return list(document[name])
