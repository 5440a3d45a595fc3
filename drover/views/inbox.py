"""All that waits for a person, each with the exact commands."""

import enum
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from drover import words
from drover.settings import Settings
from drover.views import drain_sentences, plans, queries, rolls, sentences
from drover.views.queries import PUBLIC
from drover.views.sentences import Command
from drover.views.serializers import iso, public
from models import kept_images
from models.base import Document
from models.drain import Drain, DrainState
from models.guest import Guest
from models.host import Host, HostState
from models.job import Event, Job, JobState
from models.kept_images import KeptImage
from models.roll import Roll, RollState
from models.webhook import Delivery, DeliveryState
from workflows import capacity, host_keys, outages, wait_reasons
from workflows.presence import alive, listed

MOST_PLANS = 100
SOON = timedelta(hours=2)
"""Before images that guests left behind are deleted."""
MOST_NAMES = 5


class Want(enum.StrEnum):
    """What a person is wanted for."""

    DECISION = "decide"  # a job that needs an operator
    RELEASE = "release"  # a job that is held and in sync
    APPROVAL = "approve"  # of a plan
    APPLICATION = "apply"  # of a plan that has the approvals that it needs
    WAY_HOME = "check"  # a guest that was not well after its move
    RESUMPTION = "resume"  # of a drain or a roll that is paused, or a drain that has left guests
    GUEST = "guest"  # its QEMU has ended, or it runs twice
    HOST = "host"  # silent, or with another key than before
    IMAGES = "images"  # those of guests that can go back by them soon no more
    MESSAGE = "webhook"  # a webhook that did not arrive


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that wants a person."""

    want: Want
    since: datetime
    about: str
    page: str
    """Path of the page that has more about it."""
    sentence: str
    commands: tuple[Command, ...]

    def document(self) -> Document:
        """As JSON."""
        return {
            "want": self.want.value,
            "since": iso(self.since),
            "about": self.about,
            "sentence": public(self.sentence),
            "commands": [command._asdict() for command in self.commands],
        }


def items(session: Session, ours: Settings) -> list[Item]:
    """All of them, the oldest first."""
    found = [*_decisions(session), *_releases(session), *_plans(session), *_checks(session)]
    found += [*_drains(session), *_rolls(session)]
    found += [
        *_images(session, ours),
        *_hosts(session, ours),
        *_keys(session, ours),
        *_guests(session),
        *_messages(session),
    ]
    return sorted(found, key=lambda item: item.since)


def _decisions(session: Session) -> Iterator[Item]:
    asked = select(func.max(Event.at)).where(Event.job_id == Job.id, Event.action == JobState.NEEDS_OPERATOR)
    query = select(Job, func.coalesce(asked.scalar_subquery(), Job.created_at)).options(*PUBLIC)
    for job, since in session.execute(query.where(Job.state == JobState.NEEDS_OPERATOR)):
        yield Item(
            want=Want.DECISION,
            since=since,
            about=f"{job.guest}: job {job.id}",
            page=f"/jobs/{job.id}",
            sentence=job.error or "it needs an operator",
            commands=tuple(sentences.decisions(job)),
        )


def _releases(session: Session) -> Iterator[Item]:
    query = queries.with_conditions().options(selectinload(Job.steps), selectinload(Job.disks))
    held = query.where(Job.state == JobState.RUNNING, Job.hold, capacity.parked())
    for job in map(queries.completed, session.execute(held)):
        in_sync = max((disk.ready_at for disk in job.disks if disk.ready_at), default=job.created_at)
        yield Item(
            want=Want.RELEASE,
            since=in_sync,
            about=f"{job.guest}: job {job.id}",
            page=f"/jobs/{job.id}",
            sentence=job.wait_reason or "it is held in sync",
            commands=tuple(sentences.commands(job)),
        )


def _plans(session: Session) -> Iterator[Item]:
    for shot in plans.newest(session, everything=False, limit=MOST_PLANS):
        assert shot.row is not None
        yield Item(
            want=Want.APPROVAL if shot.lacks_approval else Want.APPLICATION,
            since=shot.row.submitted_at,
            about=f"{shot.host}: plan {shot.row.id}",
            page=f"/plans/{shot.row.id}",
            sentence=f"{plans.headline(shot)}; {plans.standing(shot)}",
            commands=tuple(plans.commands(shot)),
        )


def _checks(session: Session) -> Iterator[Item]:
    for job in session.scalars(queries.unwell()):
        yield Item(
            want=Want.WAY_HOME,
            since=job.finished_at or job.created_at,
            about=f"{job.guest}: job {job.id}",
            page=f"/jobs/{job.id}",
            sentence=sentences.after_its_move(job),
            commands=tuple(sentences.ways_out(job)),
        )


def _drains(session: Session) -> Iterator[Item]:
    waiting = (DrainState.PAUSED, DrainState.INCOMPLETE)
    controlled = outages.is_attended(session)
    for drain in session.scalars(select(Drain).where(Drain.state.in_(waiting))):
        paused = drain.state is DrainState.PAUSED
        why = wait_reasons.of_drain(drain, {}, controlled=controlled)
        yield Item(
            want=Want.RESUMPTION,
            since=drain.finished_at or drain.started_at or drain.created_at,
            about=f"{drain.host}: {drain.kind} {drain.id}",
            page=f"/drains/{drain.id}",
            sentence=(why if paused else drain.error) or "it has left guests",
            commands=tuple(drain_sentences.commands(drain)),
        )


def _rolls(session: Session) -> Iterator[Item]:
    for roll in session.scalars(select(Roll).where(Roll.state == RollState.PAUSED)):
        yield Item(
            want=Want.RESUMPTION,
            since=roll.since,
            about=f"roll {roll.id}",
            page=f"/rolls/{roll.id}",
            sentence=roll.error or "an operator has paused it",
            commands=tuple(rolls.commands(roll)),
        )


def _images(session: Session, ours: Settings) -> Iterator[Item]:
    """One for each host, for a drain leaves many at the same time."""
    ending = defaultdict[str, list[KeptImage]](list)
    for image in kept_images.kept(session, ending_within=SOON):
        if not (image.last_way_back or image.copy):
            ending[image.host].append(image)
    for host in session.scalars(select(Host.name).where(Host.name.in_(ending), listed(ours))):
        guests, first = sorted({image.guest for image in ending[host]}), min(image.until for image in ending[host])
        more = f" and {len(guests) - MOST_NAMES} more" if len(guests) > MOST_NAMES else ""
        yield Item(
            want=Want.IMAGES,
            since=first - SOON,
            about=host,
            page=f"/hosts/{host}",
            sentence=f"images that guests left there ({', '.join(guests[:MOST_NAMES])}{more}) are deleted from "
            f"{words.utc(first)} on: to go back after that all has to be copied",
            commands=(
                Command(f"drover image list --host {host}", "says which, and when"),
                Command(f"drover migrate {guests[0]} --back", "takes a guest back before that"),
            ),
        )


def _hosts(session: Session, ours: Settings) -> Iterator[Item]:
    silent = (~alive(ours), Host.state.not_in((HostState.MAINTENANCE, HostState.FORGOTTEN)))
    for host in session.scalars(select(Host).where(*silent)):
        yield Item(
            want=Want.HOST,
            since=host.heartbeat_at,
            about=host.name,
            page=f"/hosts/{host.name}",
            sentence="its worker is silent: its guests go on, but no move of them does",
            commands=(
                Command("systemctl status drover-worker", f"on {host.name}, says whether its worker runs and why not"),
                Command(f"drover host forget {host.name}", "takes it off the lists, if it is gone for good"),
            ),
        )


def _keys(session: Session, ours: Settings) -> Iterator[Item]:
    query = select(Host).where(Host.trusted_key.is_not(None), Host.public_key != Host.trusted_key, listed(ours))
    for host in session.scalars(query):
        yield Item(
            want=Want.HOST,
            since=host.heartbeat_at,
            about=host.name,
            page=f"/hosts/{host.name}",
            sentence=f"{host_keys.unproven(host)}: trust it only if `drover host key` there shows the same",
            commands=(Command(f"drover host trust {host.name}", "takes the new key for its own"),),
        )


def _guests(session: Session) -> Iterator[Item]:
    for guest in session.scalars(select(Guest).where(Guest.twin.is_not(None))):
        yield Item(
            want=Want.GUEST,
            since=guest.moved_at or guest.adopted_at,
            about=guest.name,
            page=f"/hosts/{guest.host}",
            sentence=f"it runs twice: {guest.twin}. End one of the two before both write to its data",
            commands=(Command(f"drover guest show {guest.name}", "asks its host what it is now"),),
        )
    for guest in session.scalars(select(Guest).where(Guest.gone_at.is_not(None))):
        yield Item(
            want=Want.GUEST,
            since=guest.gone_at or guest.adopted_at,
            about=guest.name,
            page=f"/hosts/{guest.host}",
            sentence=f"its QEMU on {guest.host} has ended, and no other has taken its place",
            commands=(
                Command(f"drover guest show {guest.name}", "asks its host what it is now"),
                Command(f"drover guest forget {guest.name}", "deletes its record, if it was powered off for good"),
            ),
        )


def _messages(session: Session) -> Iterator[Item]:
    query = select(Delivery.job_id, Delivery.drain_id, Delivery.roll_id, Delivery.created_at, Delivery.error)
    for row in session.execute(query.where(Delivery.state == DeliveryState.FAILED)):
        numbers = {"job": row.job_id, "drain": row.drain_id, "roll": row.roll_id}
        kind, number = next((kind, number) for kind, number in numbers.items() if number is not None)
        yield Item(
            want=Want.MESSAGE,
            since=row.created_at,
            about=f"{kind} {number}",
            page=f"/{kind}s/{number}",
            sentence=f"its webhook did not arrive: {row.error or 'no reason was recorded'}",
            commands=(Command("drover webhook list", "says who may be told"),),
        )
