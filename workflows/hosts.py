"""Operators' settings of hosts: whether they take guests."""

from collections.abc import Iterator, Mapping

from sqlalchemy import ColumnElement, func, or_, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from drover import words
from drover.errors import PreconditionFailed
from drover.settings import settings
from models import decision_log, kept_images
from models.database import NO_KEY_UPDATE, transaction
from models.drain import UNDER_WAY, Drain, DrainKind
from models.guest import Guest
from models.host import Host, HostState
from models.job import Job, unfinished
from models.roll import Roll, RollHost, RollState, taken_out_by
from workflows import not_there
from workflows.capacity import CLOSED
from workflows.presence import alive, listed
from workflows.selectors import OWN, Selector


def labels_of(name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of a host and, as the label `host`, its name."""
    return {**labels, OWN: name}


def selected(selector: Selector) -> ColumnElement[bool]:
    """Of hosts: it is there, and has these labels."""
    own = func.jsonb_concat(type_coerce(Host.labels, JSONB), func.jsonb_build_object(OWN, Host.name))
    return listed(settings()) & selector.condition(own)


def cordon(name: str) -> Host:
    """Let a host take no guest; those that it has stay.

    Raises:
        PreconditionFailed: there is no such host.
    """
    with transaction() as session:
        host = existing(session, name)
        if host.state is HostState.ACTIVE:
            host.state = HostState.CORDONED
            decision_log.add(session, f"an operator cordoned {name}: it takes no guest")
    return host


def uncordon(name: str) -> Host:
    """Let a host take guests again.

    Raises:
        PreconditionFailed: there is no such host, or a drain is emptying it, or a roll has taken it out.
    """
    with transaction() as session:
        host = existing(session, name)
        emptied = Drain.kind == DrainKind.DRAIN
        drain = session.query(Drain).where(Drain.host == name, emptied, Drain.state.in_(UNDER_WAY)).one_or_none()
        if drain is not None:
            raise PreconditionFailed(f"drain {drain.id} is emptying {name}: `drover drain cancel {drain.id}` first")
        if held := taken_out_by(session, name):
            raise PreconditionFailed(held)
        host.state = HostState.ACTIVE
        decision_log.add(session, f"an operator uncordoned {name}: it takes guests again")
    return host


def forget(name: str) -> Host:
    """Take a host that is gone off all lists. If its worker starts again it is listed again, and takes no guest.

    Raises:
        PreconditionFailed: there is no such host, its worker is heard, or something still needs it.
    """
    with transaction() as session:
        host = existing(session, name)
        if needed := "; ".join(_needed(session, name)):
            raise PreconditionFailed(f"{name} was not forgotten, nothing was changed: {needed}")
        host.state = HostState.FORGOTTEN
        decision_log.add(session, f"an operator had {name} forgotten: it is listed no more")
    return host


def _needed(session: Session, name: str) -> Iterator[str]:
    """What is against forgetting a host, each with what to do."""
    ours = settings()
    if session.scalar(select(alive(ours)).where(Host.name == name)):
        silent = words.duration(ours.host_timeout.total_seconds())
        yield f"its worker is heard: end it there (`systemctl disable --now drover-worker`), then wait {silent}"
    if guests := session.scalars(select(Guest.name).where(Guest.host == name).order_by(Guest.name)).all():
        live = words.count(len(guests), "guest lives", "guests live")
        yield (
            f"{live} there ({', '.join(guests)}): `drover drain {name}` moves them while its worker runs, `drover "
            "guest forget GUEST` deletes the record of one that is gone with it"
        )
    about_it = select(Job).where(unfinished(), or_(Job.source == name, Job.destination == name)).order_by(Job.id)
    for job in session.scalars(about_it):
        yield f"job {job.id} of {job.guest} is {job.state}: `drover job explain {job.id}` says what it needs to end"
    for drain in session.scalars(select(Drain).where(Drain.host == name, Drain.finished_at.is_(None))):
        yield f"{drain.kind} {drain.id} of it is {drain.state}: `drover drain cancel {drain.id}`"
    going = Roll.state.not_in([state for state in RollState if state.ended])
    for roll_id in session.scalars(select(RollHost.roll_id).join(Roll).where(RollHost.host == name, going)):
        yield f"roll {roll_id} has it: `drover roll cancel {roll_id}`"
    for guest in sorted({image.guest for image in kept_images.kept(session, host=name) if image.last_way_back}):
        yield (
            f"images there are the last way back of {guest}, which was not well after its move: `drover image purge "
            f"--guest {guest} --last-way-back` gives them up"
        )


def existing(session: Session, name: str) -> Host:
    """The host with its row locked.

    Raises:
        PreconditionFailed: there is none.
    """
    host = session.get(Host, name, with_for_update=NO_KEY_UPDATE)
    if host is None or not session.scalar(select(listed(settings())).where(Host.name == name)):
        raise not_there.host(session, name)
    return host


def takes_guests(host: Host) -> None:
    """Refuse a destination that is closed.

    Raises:
        PreconditionFailed: an operator has cordoned it, or it is in maintenance.
    """
    if closed := CLOSED[host.state]:
        raise PreconditionFailed(f"{host.name} takes no guest: {closed} (`drover host uncordon {host.name}`)")
