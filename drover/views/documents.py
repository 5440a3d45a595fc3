"""Each JSON document as a whole, read from the database: what the commands print with `--json`."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, func, select

from drover.settings import settings
from drover.views import drain_documents, drain_queries, estimates, queries, sentences, serializers, timeline
from drover.views import rolls as roll_views
from drover.views.serializers import iso
from models.base import Document
from models.database import transaction
from models.documents import MigrationOptions
from models.event_action import EventAction
from models.guest import Guest
from models.host import Host
from models.job import Job, unfinished
from models.kept_images import KeptImage
from models.plan import Inspection
from workflows import guests as guest_rows
from workflows import hosts as host_rows
from workflows import not_there
from workflows import policies as policy_rows
from workflows.drain.headroom import Headroom
from workflows.guest_scan import Finding
from workflows.kept_images import Purged
from workflows.presence import alive
from workflows.selectors import Selector

ALL = Selector()


def hosts(selector: Selector = ALL) -> list[Document]:
    """All hosts, or those that are selected, by name."""
    return _hosts(host_rows.selected(selector))


def _hosts(meant: ColumnElement[bool]) -> list[Document]:
    guests = select(func.count()).where(Guest.host == Host.name).scalar_subquery()
    query = select(Host, alive(settings()), guests).where(meant).order_by(Host.name)
    with transaction() as session:
        return [
            serializers.host_document(host, is_alive=is_alive, guests=count)
            for host, is_alive, count in session.execute(query)
        ]


def host(name: str) -> Document:
    """One host, also if it was forgotten.

    Raises:
        NotThere: there is none.
    """
    if found := _hosts(Host.name == name):
        return found[0]
    with transaction() as session:
        raise not_there.host(session, name)


def guests(selector: Selector = ALL) -> list[Document]:
    """All guests, or those that are selected, by name, each with the job that holds it."""
    there = select(Guest, Job.id, alive(settings())).join(Host, Host.name == Guest.host)
    there = there.where(selector.condition(Guest.labels))
    query = there.outerjoin(Job, (Job.guest == Guest.name) & unfinished()).order_by(Guest.name)
    with transaction() as session:
        return [
            {**serializers.guest_document(guest, job_id), "state": guest.life(host_alive=host_alive).value}
            for guest, job_id, host_alive in session.execute(query)
        ]


def inspected(guest: Guest, inspection: Inspection) -> Document:
    """One guest, with what its host has just reported about it."""
    with transaction() as session:
        job_id = session.scalar(select(Job.id).where(Job.guest == guest.name, unfinished()))
        row = serializers.guest_document(session.get(Guest, guest.name) or guest, job_id)
        unwell = session.scalar(queries.unwell().where(Job.guest == guest.name))
    found = serializers.inspection_document(inspection)
    decided = policy_rows.by_policies(policy_rows.of(guest))
    row["unwell"] = None if unwell is None else _unwell(unwell)
    return {**row, "movable": not found["refusals"], "policies": decided, "inspection": found}


def _unwell(job: Job) -> Document:
    commands = [command._asdict() for command in sentences.ways_out(job)]
    return {"job": job.id, "sentence": sentences.after_its_move(job), "commands": commands}


def qemus(host: str, findings: Sequence[Finding]) -> Document:
    """The QEMUs of a host: what each is, whether it can be moved, and what it would be called."""
    return {
        "host": host,
        "qemus": [
            one.qemu.model_dump(mode="json")
            | {
                "launcher": one.qemu.launcher.public(),
                "guest": one.guest,
                "movable": not one.reasons,
                "reasons": list(one.reasons),
                "adoptable_as": one.name,
                "not_adoptable": one.unnamed,
            }
            for one in findings
        ],
    }


def policies() -> list[Document]:
    """All policies, those of higher priority first, each with its guests and what others decide about those instead."""
    with transaction() as session:
        rules = policy_rows.all_of(session)
        found = session.scalars(select(Guest).order_by(Guest.name)).all()
    decided = {guest.name: policy_rows.decided(guest, MigrationOptions(), rules) for guest in found}
    return [
        {
            "name": rule.name,
            "priority": rule.priority,
            "selector": rule.selector,
            "decides": policy_rows.values(rule.options, rule.options.given),
            "guests": {
                guest.name: policy_rows.by_policies(decided[guest.name], instead_of=rule)
                for guest in found
                if Selector.read(rule.selector).matches(guest.labels)
            },
            "changed_at": serializers.iso(rule.changed_at),
        }
        for rule in rules
    ]


def policy(name: str) -> Document:
    """One policy.

    Raises:
        NotThere: there is none.
    """
    for found in policies():
        if found["name"] == name:
            return found
    with transaction() as session:
        raise not_there.policy(session, name)


def jobs(
    *,
    everything: bool,
    guest: str | None,
    limit: int,
    selector: Selector | None = None,
    since: timedelta | None = None,
) -> list[Document]:
    """Jobs, newest first, see `queries.newest`.

    Raises:
        NotThere: nobody has the name of this guest.
    """
    shots = queries.newest(everything=everything, guest=guest, limit=limit, selector=selector, since=since)
    if guest is not None and not shots:
        with transaction() as session:
            guest_rows.refuse_unknown(session, guest)
    return [serializers.job_summary(shot) for shot in shots]


def job(job_id: int) -> Document:
    """Everything about one job.

    Raises:
        PreconditionFailed: there is none. Likewise of the next.
    """
    shot, warnings = queries.snapshot(job_id), queries.events(job_id, EventAction.WARNING)
    return serializers.job_document(shot, warnings, queries.delivery(job_id=job_id))


def explanation(job_id: int) -> Document:
    """A job's events."""
    of = queries.snapshot(job_id).job
    names = ("id", "guest", "source", "destination", "state")
    events = [serializers.event_document(event) for event in queries.events(job_id)]
    told = {name: getattr(of, name) for name in names}
    return {**told, "wait_reason": serializers.public(of.wait_reason), "events": events}


def report_of_job(job_id: int) -> Document:
    """What is kept of a job: its document, its events, its parts over time, and what was expected of it.

    Raises:
        NotThere: there is no such job. Likewise of the next.
    """
    shot = queries.snapshot(job_id)
    expected = estimates.of_job(shot.job)
    return {
        **job(job_id),
        "at": iso(shot.at),
        "estimate_s": None if expected is None else round(expected.total_s, 1),
        "parts": [
            {
                "part": bar.part.value,
                "started_at": serializers.iso(bar.begun),
                "finished_at": serializers.iso(bar.ended),
            }
            for bar in timeline.line(shot.job, queries.attempts([job_id])[job_id], shot.at).bars
        ],
        "samples": list(map(serializers.sample_document, queries.samples(job_id))),
        "events": explanation(job_id)["events"],
    }


def report_of_drain(drain_id: int) -> Document:
    """The drain's document, and the report of each of its jobs."""
    found = drain(drain_id)
    numbers = [guest["job"] for guest in found["guests"] if guest["job"] is not None]
    return {**found, "jobs": list(map(report_of_job, numbers))}


def drains(
    *, everything: bool, limit: int, selector: Selector | None = None, since: timedelta | None = None
) -> list[Document]:
    """Drains, newest first, see `drain_queries.newest`."""
    shots = drain_queries.newest(everything=everything, limit=limit, selector=selector, since=since)
    return [drain_documents.drain_summary(shot) for shot in shots]


def drain(drain_id: int) -> Document:
    """Everything about one drain.

    Raises:
        PreconditionFailed: there is none.
    """
    return drain_documents.drain_document(drain_queries.snapshot(drain_id))


def rolls(
    *, everything: bool, limit: int, selector: Selector | None = None, since: timedelta | None = None
) -> list[Document]:
    """Rolls, newest first, see `roll_views.newest`."""
    shots = roll_views.newest(everything=everything, limit=limit, selector=selector, since=since)
    return [roll_views.summary(shot) for shot in shots]


def roll(roll_id: int) -> Document:
    """Everything about one roll.

    Raises:
        NotThere: there is none.
    """
    return roll_views.document(roll_views.snapshot(roll_id))


def images(found: Sequence[KeptImage]) -> Document:
    """Images that guests left behind."""
    return {"images": list(map(serializers.kept_image, found)), "takes_bytes": _takes_bytes(found)}


def purged(done: Purged, *, dry_run: bool) -> Document:
    """What a purge deletes, and what stays."""
    return {
        "dry_run": dry_run,
        "deleted": list(map(serializers.kept_image, done.deleted)),
        "stay": list(map(serializers.kept_image, done.stay)),
        "gives_bytes": _takes_bytes(done.deleted),
        "silent": list(done.silent),
    }


def _takes_bytes(found: Sequence[KeptImage]) -> int:
    return sum(image.takes_bytes or 0 for image in found)


def headroom(found: Headroom) -> Document:
    """Whether a host could be emptied."""
    return {
        "host": found.host,
        "ok": found.ok,
        "guests": found.guests,
        "total_s": round(found.total_s, 1),
        "obstacles": list(found.obstacles),
        "skipped": [{"guest": guest, "reason": serializers.public(why)} for guest, why in sorted(found.left.items())],
    }
