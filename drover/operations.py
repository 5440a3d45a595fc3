"""What operators ask for and have done. Each answers the JSON document that the command prints with `--json`.

`ByDatabase` does it here, for commands and for the HTTP API; `drover.client` has the API do it. What is not here
is done by the database alone.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

from drover.views import documents, drain_documents, drain_queries, dry_run, queries, serializers
from drover.views.drain_queries import DrainShot
from drover.views.queries import Snapshot
from models.base import Document
from models.drain import DrainKind
from models.job import Side
from workflows import guests, hosts
from workflows.drain import commands
from workflows.drain.commands import DrainRequest
from workflows.migration import completion, jobs, operator_actions
from workflows.migration.jobs import Changes
from workflows.selectors import Selector
from workflows.submissions import DrainSubmission, MigrationSubmission

JobAction = Literal["cancel", "release", "retry"]
DrainAction = Literal["pause", "resume", "release", "cancel"]
HostAction = Literal["cordon", "uncordon"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which jobs or drains are listed, the newest first."""

    everything: bool = False
    """Those that have ended as well."""
    guest: str | None = None
    """Jobs of this guest alone."""
    selector: str | None = None
    """Of labels: of a job's guest, of a drain's host."""
    since: timedelta | None = None
    """All that were submitted so long ago at the most."""
    limit: int = 100


@dataclass(frozen=True)
class SubmittedDrain:
    """A drain, and how it came about."""

    document: Document
    forecast: Document | None
    """Who goes where by its plan; None of one that was there already, to which nothing was added."""


class Operations(Protocol):
    """All raise PreconditionFailed where something was refused, and nothing was changed."""

    def hosts(self, selector: str | None) -> list[Document]:
        """All hosts, or those with these labels."""

    def on_host(self, name: str, action: HostAction) -> Document:
        """Cordon a host, or let it take guests again."""

    def guests(self, selector: str | None) -> list[Document]:
        """All guests, or those with these labels."""

    def guest(self, name: str) -> Document:
        """What a guest's host reports about it now."""

    def jobs(self, wanted: Wanted) -> list[Document]:
        """Jobs, the newest first."""

    def job(self, number: int) -> Document:
        """Everything about one job."""

    def job_shot(self, number: int) -> Snapshot:
        """The same, for those who show it."""

    def job_of_key(self, key: str) -> int:
        """The number of the job that was submitted with this idempotency key."""

    def explanation(self, number: int) -> Document:
        """A job's events."""

    def try_migration(self, asked: MigrationSubmission) -> Document:
        """What a move would do; nothing is changed."""

    def migrate(self, asked: MigrationSubmission) -> Document:
        """Submit a job."""

    def on_job(self, number: int, action: JobAction) -> Document:
        """Do this to a job."""

    def change_job(self, number: int, changes: Changes) -> Document:
        """Change how a job is done."""

    def resolve(self, number: int, owner: Side, fenced: str | None) -> Document:
        """Decide who owns the guest of a job that needs an operator."""

    def price(self, number: int) -> Document:
        """For how long the guest would stand still if its move was completed now."""

    def complete_now(self, number: int, pause_s: float) -> Document:
        """Complete a move, for that price."""

    def drains(self, wanted: Wanted) -> list[Document]:
        """Drains, the newest first."""

    def drain(self, number: int) -> Document:
        """Everything about one drain."""

    def drain_shot(self, number: int) -> DrainShot:
        """The same, for those who show it."""

    def drain_of_key(self, key: str) -> int:
        """The number of the drain that was submitted with this idempotency key."""

    def try_drain(self, kind: DrainKind, asked: DrainSubmission) -> Document:
        """What a drain or return would do; nothing is changed."""

    def submit_drain(self, kind: DrainKind, asked: DrainSubmission) -> SubmittedDrain:
        """Submit a drain or return."""

    def on_drain(self, number: int, action: DrainAction) -> Document:
        """Do this to a drain."""

    def change_drain(self, number: int, changes: Changes) -> Document:
        """Change how a drain is done."""


class ByDatabase:
    """In this process, with database and broker.

    Args:
        by: who asks, as events name them.
    """

    def __init__(self, by: str = "command line") -> None:
        self.by = by

    def hosts(self, selector: str | None) -> list[Document]:
        return documents.hosts(Selector.read(selector))

    def on_host(self, name: str, action: HostAction) -> Document:
        host = hosts.cordon(name) if action == "cordon" else hosts.uncordon(name)
        return serializers.host_state(host)

    def guests(self, selector: str | None) -> list[Document]:
        return documents.guests(Selector.read(selector))

    def guest(self, name: str) -> Document:
        row = guests.known_guest(name)
        return documents.inspected(row, guests.inspect(row))

    def jobs(self, wanted: Wanted) -> list[Document]:
        return documents.jobs(
            everything=wanted.everything,
            guest=wanted.guest,
            limit=wanted.limit,
            selector=Selector.read(wanted.selector) if wanted.selector else None,
            since=wanted.since,
        )

    def job(self, number: int) -> Document:
        return documents.job(number)

    def job_shot(self, number: int) -> Snapshot:
        return queries.snapshot(number)

    def job_of_key(self, key: str) -> int:
        return queries.id_of(key)

    def explanation(self, number: int) -> Document:
        return documents.explanation(number)

    def try_migration(self, asked: MigrationSubmission) -> Document:
        return dry_run.migration(asked)

    def migrate(self, asked: MigrationSubmission) -> Document:
        job = jobs.submit(
            asked.guest,
            guests.destination(asked),
            options=asked.options(),
            terms=asked.submit_options(),
            idempotency_key=asked.idempotency_key,
            by=self.by,
        )
        return documents.job(job.id)

    def on_job(self, number: int, action: JobAction) -> Document:
        act = {"cancel": jobs.cancel, "release": jobs.release, "retry": jobs.retry}[action]
        act(number, by=self.by)
        return documents.job(number)

    def change_job(self, number: int, changes: Changes) -> Document:
        jobs.change(number, changes, by=self.by)
        return documents.job(number)

    def resolve(self, number: int, owner: Side, fenced: str | None) -> Document:
        operator_actions.resolve(number, owner, fenced, by=self.by)
        return documents.job(number)

    def price(self, number: int) -> Document:
        price = completion.price(number)
        return {
            "job": number,
            "guest": price.guest,
            "ram_left_bytes": price.left_bytes,
            "ram_bytes": price.total_bytes,
            "bytes_per_s": round(price.bytes_per_s),
            "pause_s": round(price.now_s, 3),
            "pause_most_s": round(price.most_s, 3),
        }

    def complete_now(self, number: int, pause_s: float) -> Document:
        completion.complete_now(number, pause_s, by=self.by)
        return documents.job(number)

    def drains(self, wanted: Wanted) -> list[Document]:
        return documents.drains(
            everything=wanted.everything,
            limit=wanted.limit,
            selector=Selector.read(wanted.selector) if wanted.selector else None,
            since=wanted.since,
        )

    def drain(self, number: int) -> Document:
        return documents.drain(number)

    def drain_shot(self, number: int) -> DrainShot:
        return drain_queries.snapshot(number)

    def drain_of_key(self, key: str) -> int:
        return drain_queries.id_of(key)

    def try_drain(self, kind: DrainKind, asked: DrainSubmission) -> Document:
        request, key = DrainRequest.of(kind, asked), asked.idempotency_key
        earlier, forecast = commands.submitted_or_forecast(request, key, tried=True)
        if earlier is not None:
            return documents.drain(earlier.id)
        assert forecast is not None
        return drain_documents.forecast_document(forecast)

    def submit_drain(self, kind: DrainKind, asked: DrainSubmission) -> SubmittedDrain:
        request, key = DrainRequest.of(kind, asked), asked.idempotency_key
        earlier, forecast = commands.submitted_or_forecast(request, key)
        drain = earlier or commands.submit(request, forecast=forecast, idempotency_key=key)
        planned = None if forecast is None else drain_documents.forecast_document(forecast)
        return SubmittedDrain(documents.drain(drain.id), planned)

    def on_drain(self, number: int, action: DrainAction) -> Document:
        if action == "release":
            commands.release(number, by=self.by)
        else:
            {"pause": commands.pause, "resume": commands.resume, "cancel": commands.cancel}[action](number)
        return documents.drain(number)

    def change_drain(self, number: int, changes: Changes) -> Document:
        commands.change(number, changes, by=self.by)
        return documents.drain(number)
