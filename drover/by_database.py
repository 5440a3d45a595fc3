"""`Operations` in this process, with database and broker."""

from functools import partial
from typing import Any

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
from drover.views import documents, drain_documents, drain_queries, dry_run, queries, reconciled, serializers
from drover.views import plans as plan_views
from drover.views import rolls as roll_views
from drover.views.drain_queries import DrainShot
from drover.views.queries import Snapshot
from drover.views.rolls import RollShot
from models.access import Action
from models.base import Document
from models.database import transaction
from models.documents import Window
from models.drain import DrainKind
from models.job import Side
from workflows import guest_scan, guests, host_keys, hosts, kept_images, permissions
from workflows.descriptions import GuestDescription, HostDescription
from workflows.drain import commands, headroom, notices, plan_file, planner, plans
from workflows.drain.plan_file import PlanFile
from workflows.drain.planner import DrainRequest
from workflows.kept_images import Which
from workflows.migration import completion, jobs, operator_actions
from workflows.migration.jobs import Changes
from workflows.permissions import Person
from workflows.roll import commands as rolls
from workflows.roll.commands import RollRequest
from workflows.selectors import Selector
from workflows.submissions import DrainSubmission, MigrationSubmission, RollSubmission


class ByDatabase:
    """In this process, with database and broker.

    Args:
        person: who asks; what they may not do is refused.
    """

    def __init__(self, person: Person) -> None:
        self.person = person
        self.by, self.user = person.by, person.name

    def hosts(self, selector: str | None) -> list[Document]:
        return documents.hosts(Selector.read(selector))

    def on_host(self, name: str, action: HostAction) -> Document:
        done = {"cordon": hosts.cordon, "uncordon": hosts.uncordon, "forget": hosts.forget}[action]
        return serializers.host_state(done(name))

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
        permissions.check_move(self.person, asked.guest, guests.destination(asked))
        return dry_run.migration(asked)

    def migrate(self, asked: MigrationSubmission) -> Document:
        to = guests.destination(asked)
        permissions.check_move(self.person, asked.guest, to)
        job = jobs.submit(
            asked.guest,
            to,
            options=asked.options(),
            terms=asked.submit_options(),
            still_wanted=partial(permissions.check_new_job, self.person),
            idempotency_key=asked.idempotency_key,
            by=self.by,
            token=self.person.token,
        )
        return documents.job(job.id)

    def on_job(self, number: int, action: JobAction) -> Document:
        permissions.check_job(self.person, Action.CANCEL if action == "cancel" else Action.SUBMIT, number)
        act = {"cancel": jobs.cancel, "release": jobs.release, "retry": jobs.retry}[action]
        act(number, by=self.by)
        return documents.job(number)

    def change_job(self, number: int, changes: Changes) -> Document:
        permissions.check_job(self.person, Action.SUBMIT, number)
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
        permissions.check_job(self.person, Action.SUBMIT, number)
        completion.complete_now(number, pause_s, by=self.by)
        return documents.job(number)

    def drains(self, wanted: Wanted) -> list[Document]:
        return documents.drains(**_of_hosts(wanted))

    def drain(self, number: int) -> Document:
        return documents.drain(number)

    def drain_shot(self, number: int) -> DrainShot:
        return drain_queries.snapshot(number)

    def drain_of_key(self, key: str) -> int:
        return drain_queries.id_of(key)

    def try_drain(self, kind: DrainKind, asked: DrainSubmission) -> Document:
        request, key = DrainRequest.of(kind, asked), asked.idempotency_key
        permissions.check_new_drain(self.person, request)
        earlier, forecast = commands.submitted_or_forecast(request, key, tried=True)
        if earlier is not None:
            return documents.drain(earlier.id)
        assert forecast is not None
        return drain_documents.forecast_document(forecast)

    def submit_drain(self, kind: DrainKind, asked: DrainSubmission) -> SubmittedDrain:
        request, key = DrainRequest.of(kind, asked), asked.idempotency_key
        permissions.check_new_drain(self.person, request)
        earlier, forecast = commands.submitted_or_forecast(request, key)
        drain = earlier or commands.submit(
            request, forecast=forecast, idempotency_key=key, by=self.by, token=self.person.token
        )
        planned = None if forecast is None else drain_documents.forecast_document(forecast)
        return SubmittedDrain(documents.drain(drain.id), planned)

    def on_drain(self, number: int, action: DrainAction) -> Document:
        permissions.check_drain(self.person, Action.CANCEL if action == "cancel" else Action.DRAIN, number)
        if action == "release":
            commands.release(number, by=self.by)
        elif action == "resume":
            commands.resume(number, token=self.person.token)
        else:
            {"pause": commands.pause, "cancel": commands.cancel}[action](number)
        return documents.drain(number)

    def change_drain(self, number: int, changes: Changes) -> Document:
        permissions.check_drain(self.person, Action.DRAIN, number)
        commands.change(number, changes, by=self.by)
        return documents.drain(number)

    def overrule(self, number: int, guest: str) -> Document:
        notices.overrule(number, guest, self.user)
        return documents.drain(number)

    def report(self, kind: Reported, number: int) -> Document:
        return {"job": documents.report_of_job, "drain": documents.report_of_drain}[kind](number)

    def draft_plan(self, kind: DrainKind, asked: DrainSubmission) -> Document:
        forecast = planner.forecast(DrainRequest.of(kind, asked), tried=True)
        made = plan_file.made(forecast, asked, self.user)
        return {"plan": made.json_object(), "forecast": drain_documents.forecast_document(forecast)}

    def look_at_plan(self, plan: PlanFile) -> Document:
        with transaction() as session:
            shot = plan_views.of(session, plan)
        return plan_views.document(shot)

    def try_plan(self, plan: PlanFile) -> Document:
        forecast = plans.try_out(plan, self.user)
        return drain_documents.forecast_document(forecast) | {"differences": plans.differences(plan)}

    def submit_plan(self, plan: PlanFile) -> Document:
        return self.plan(plans.submit(plan, self.user))

    def apply_plan(self, plan: PlanFile) -> Document:
        return documents.drain(plans.apply(plan, self.user, self.person.token).id)

    def plans(self, wanted: Wanted) -> list[Document]:
        with transaction() as session:
            found = plan_views.newest(session, **_of_hosts(wanted))
        return list(map(plan_views.summary, found))

    def plan(self, number: int) -> Document:
        return plan_views.document(plan_views.snapshot(number))

    def on_plan(self, number: int, action: PlanAction) -> Document:
        if action == "apply":
            return documents.drain(plans.apply_submitted(number, self.user, self.person.token).id)
        {"approve": plans.approve, "withdraw": plans.withdraw}[action](number, self.user)
        return self.plan(number)

    def rolls(self, wanted: Wanted) -> list[Document]:
        return documents.rolls(**_of_hosts(wanted))

    def roll(self, number: int) -> Document:
        return documents.roll(number)

    def roll_shot(self, number: int) -> RollShot:
        return roll_views.snapshot(number)

    def try_roll(self, asked: RollSubmission) -> Document:
        return dry_run.roll(asked)

    def submit_roll(self, asked: RollSubmission) -> Document:
        return documents.roll(rolls.submit(RollRequest.of(asked), self.person.token).id)

    def on_roll(self, number: int, action: RollAction) -> Document:
        if action == "resume":
            rolls.resume(number, self.person.token)
        else:
            {"pause": rolls.pause, "cancel": rolls.cancel}[action](number)
        return documents.roll(number)

    def change_roll(self, number: int, max_unavailable: int) -> Document:
        rolls.change(number, max_unavailable, by=self.by)
        return documents.roll(number)

    def images(self, which: Which, selector: str | None) -> Document:
        return documents.images(kept_images.listed(which, Selector.read(selector)))

    def purge(self, which: Which, *, last_way_back: bool, dry_run: bool) -> Document:
        purged = kept_images.purge(which, last_way_back=last_way_back, dry_run=dry_run)
        return documents.purged(purged, dry_run=dry_run)

    def describe_guest(self, name: str, said: GuestDescription) -> Document:
        return serializers.guest_document(said.apply(name), None)

    def adopt(self, name: str, host: str, qmp: str) -> Document:
        return documents.inspected(*guests.adopt(name, host, qmp))

    def forget(self, name: str) -> Document:
        gone = guests.forget(name)
        return {"forgotten": gone.name, "host": gone.host}

    def qemus(self, host: str, *, adopt: bool) -> Document:
        found = guest_scan.scan(host)
        return documents.qemus(host, guest_scan.adopt(host, found) if adopt else found)

    def trust(self, host: str) -> Document:
        return serializers.host_trusted(host_keys.trust(host))

    def reconcile(self, guest: str | None, *, dry_run: bool) -> Document:
        return reconciled.asked(guest, dry_run=dry_run, by=self.by)

    def describe_host(self, name: str, said: HostDescription) -> Document:
        return serializers.host_own(said.apply(name))

    def ok_to_drain(self, name: str, window: Window | None) -> Document:
        return documents.headroom(headroom.ok_to_drain(name, window))

    def headroom(self, selector: str | None, window: Window | None) -> list[Document]:
        return [documents.headroom(found) for found in headroom.of_all(Selector.read(selector), window)]


def _of_hosts(wanted: Wanted) -> dict[str, Any]:
    """Which drains, plans or rolls."""
    selector = Selector.read(wanted.selector) if wanted.selector else None
    return {"everything": wanted.everything, "limit": wanted.limit, "selector": selector, "since": wanted.since}
