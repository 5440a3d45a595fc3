"""Records of guests: adopt, describe, forget."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import exists, false, or_, select, text, update
from sqlalchemy.orm import Session

from drover import names
from drover.errors import HostRefused, PreconditionFailed
from models import decision_log
from models.activity import Activity
from models.database import transaction
from models.documents import MigrationOptions
from models.guest import Guest
from models.host_rpc import Inspect, LookForGuest
from models.job import Job, JobState, unfinished
from models.launcher import Launcher
from models.plan import Inspection
from workflows import not_there
from workflows.host_rpc import ask
from workflows.presence import known_host
from workflows.selectors import relabelled
from workflows.submissions import MigrationSubmission


def adopt(name: str, host: str, qmp: str) -> tuple[Guest, Inspection]:
    """Record a running QEMU as a guest; returns the guest and its host's inspection.

    Adopting a guest whose QEMU was started anew elsewhere updates where it is.

    Raises:
        PreconditionFailed: no guest may have that name, the host is unknown, no monitor answers at that socket, a job
            of the guest has not ended, its QEMU is adopted under another name, or the guest runs by another QEMU.
    """
    names.check(name, "a guest")
    known_host(host)
    with transaction() as session:
        refuse_in_mid_job(session, name)  # before a host is asked for nothing
    inspection = ask(host, Inspect(qmp=qmp))
    qmp = inspection.qmp  # another one of the same QEMU, where somebody holds this
    if inspection.runstate == "inmigrate":
        raise PreconditionFailed(f"the QEMU at {qmp} on {host} waits for a migration: adopt the guest where it runs")
    _refuse_second_qemu(name, host, inspection)
    with transaction() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext('drover guest adopt'))"))  # one after the other
        guest = session.get(Guest, name, with_for_update=True) or Guest(name=name)
        refuse_in_mid_job(session, name)
        if inspection.job is not None and (job := session.get(Job, inspection.job)) is not None:
            refuse_in_mid_job(session, job.guest)  # it is what that guest will be, or is already and no row says so
        _refuse_second_name(session, name, host, qmp, inspection)
        guest.host, guest.qmp = host, qmp
        for column, value in _found(inspection).items():
            setattr(guest, column, value)
        session.add(guest)
        decision_log.add(session, f"the guest was adopted on {host}, by its monitor {qmp}", guest=name)
    return guest, inspection


def _found(inspection: Inspection) -> dict[str, int | str | Launcher | Activity | None]:
    """What a guest is and takes of its host, by the columns of its record."""
    disk_bytes = sum(disk.virtual_size_bytes for disk in inspection.disks)
    sizes = {"cpus": inspection.cpus, "memory_bytes": inspection.memory_bytes, "disk_bytes": disk_bytes}
    who = {
        "process": inspection.process,
        "uuid": inspection.uuid,
        "gone_at": None,
        "runstate": inspection.runstate,
        "launcher": inspection.launcher,
    } | ({"activity": inspection.activity} if inspection.activity is not None else {})
    on_devices = sum(disk.virtual_size_bytes for disk in inspection.disks if disk.block_device)
    return {**sizes, **who, "device_bytes": on_devices, "allocated_bytes": _allocated(inspection)}


def _allocated(inspection: Inspection) -> int | None:
    """Unknown where its host does not say it of each disk."""
    each = [disk.allocated_bytes for disk in inspection.disks if not disk.block_device]
    return None if None in each else sum(filter(None, each))


def refuse_unknown(session: Session, name: str) -> None:
    """Refuse a name that neither a guest nor a job has. A guest's jobs stay when it is forgotten.

    Raises:
        NotThere: nobody has it.
    """
    if session.get(Guest, name) is None and not session.scalar(select(exists().where(Job.guest == name))):
        raise not_there.guest(session, name)


def refuse_in_mid_job(session: Session, name: str) -> None:
    """Refuse what must not happen while a job of the guest has not ended."""
    job = session.scalar(select(Job).where(unfinished(), Job.guest == name))
    if job is None:
        return
    if job.state is JobState.NEEDS_OPERATOR:
        remedy = f"`drover job explain {job.id}` says what to do: do that first"
    else:
        remedy = f"wait for its end, or `drover job cancel {job.id}` first"
    raise PreconditionFailed(
        f"{name} is being moved already by job {job.id} from {job.source} to {job.destination}, which is {job.state}: "
        f"{remedy}"
    )


def _refuse_second_name(session: Session, name: str, host: str, qmp: str, inspection: Inspection) -> None:
    """A QEMU that is moved under one name would leave a record without a guest under each of its others."""
    process, uuid = inspection.process, inspection.uuid
    same = or_(
        Guest.process == process if process else false(),
        Guest.uuid == uuid if uuid else false(),
        (Guest.host == host) & (Guest.qmp == qmp),
    )
    for other in session.scalars(select(Guest).where(Guest.name != name, same).order_by(Guest.name)):
        if process and other.process == process:
            what = f"this QEMU (pid {inspection.pid}) is known as {other.name} already"
        elif (other.host, other.qmp) == (host, qmp):
            what = f"{qmp} on {host} is the QMP socket of {other.name} already"
        else:
            what = f"the UUID {uuid} is that of {other.name} on {other.host} already"
        raise PreconditionFailed(f"{what}: if {name} is its new name, `drover guest forget {other.name}` first")


def _refuse_second_qemu(name: str, host: str, inspection: Inspection) -> None:
    """The guest's own may be alive still. Where its host does not say, whoever adopts it knows that."""
    with transaction() as session:
        guest = session.get(Guest, name)
    if guest is None or guest.process in {None, inspection.process}:
        return
    try:
        seen = ask(guest.host, LookForGuest(guest=name, uuid=guest.uuid, process=guest.process))
    except PreconditionFailed:
        return
    if seen.process == guest.process:
        raise PreconditionFailed(
            f"{name} runs on {guest.host} already (pid {seen.pid}), and the QEMU at {inspection.qmp} on {host} is "
            f"another one (pid {inspection.pid}): if that is another guest, adopt it by another name; if it is the "
            "same, end one of the two first"
        )


def forget(name: str) -> Guest:
    """Delete a guest's record, for instance after it was powered off; the guest itself is not touched.

    Raises:
        PreconditionFailed: there is none, or a job that has not ended is about it.
    """
    guest = known_guest(name)
    with transaction() as session:
        locked = session.get(Guest, name, with_for_update=True)
        refuse_in_mid_job(session, name)
        if locked is not None:  # else another command came first
            session.delete(locked)
            decision_log.add(
                session, "an operator deleted the guest's record; the guest itself was not touched", guest=name
            )
    return guest


def lock_as_planned(session: Session, planned_for: Guest, inspection: Inspection) -> None:
    """Keep a guest from being adopted or forgotten until this transaction ends.

    Raises:
        PreconditionFailed: either has happened since its hosts were asked, so that their answers are out of date, or
            another submission came first.
    """
    name, process = planned_for.name, inspection.process
    guest = session.get(Guest, name, with_for_update=True, populate_existing=True)
    if guest is None:
        raise PreconditionFailed(f"{name} was forgotten while its hosts were asked")
    same_process = process is None or guest.process == process  # a worker of an earlier version does not report it
    if (guest.host, guest.qmp) != (planned_for.host, planned_for.qmp) or not same_process:
        raise PreconditionFailed(f"{name} was adopted anew while its hosts were asked: try again")
    refuse_in_mid_job(session, name)


@dataclass(frozen=True, kw_only=True)
class NeverDrain:
    """No drain moves the guest until then."""

    reason: str
    until: datetime


def describe(
    name: str,
    *,
    priority: int | None = None,
    affinity: str | None = None,
    anti_affinity: str | None = None,
    labels: Sequence[str] = (),
    unlabel: Sequence[str] = (),
    never_drain: NeverDrain | Literal[""] | None = None,
) -> Guest:
    """Set what drains consider about a guest; None leaves a value as it is, an empty one takes it away.

    Raises:
        PreconditionFailed: there is no such guest, no group can be called that, or a label is wrong.
    """
    for group in filter(None, (affinity, anti_affinity)):
        names.check(group, "a group of guests")
    known_guest(name)
    with transaction() as session:
        guest = session.get_one(Guest, name)
        guest.labels = relabelled(guest.labels, labels, unlabel)
        if never_drain is not None:
            guest.never_drain = never_drain.reason if never_drain else None
            guest.never_drain_until = never_drain.until if never_drain else None
        guest.priority = guest.priority if priority is None else priority
        guest.affinity = guest.affinity if affinity is None else affinity or None
        guest.anti_affinity = guest.anti_affinity if anti_affinity is None else anti_affinity or None
        decision_log.add(session, "an operator changed what drains consider about the guest", guest=name)
    return guest


def known_guest(name: str) -> Guest:
    """The guest with this name.

    Raises:
        PreconditionFailed: there is none, or no guest can be called that.
    """
    names.check(name, "a guest")
    with transaction() as session:
        guest = session.get(Guest, name)
        if guest is None:
            raise not_there.guest(session, name)
    return guest


def destination(asked: MigrationSubmission) -> str:
    """Where a guest is to be moved to; back to where it came from if that is asked for.

    Raises:
        PreconditionFailed: there is no such guest, or it came from nowhere.
    """
    if asked.to is not None:
        return asked.to
    guest, key = known_guest(asked.guest), asked.idempotency_key
    same = (Job.guest == guest.name) & (Job.idempotency_key == key)
    with transaction() as session:
        if key is not None and (there := session.scalar(select(Job.destination).where(same))) is not None:
            return there
        home = came_from(session, guest)
    if home is None:
        raise PreconditionFailed(f"{guest.name} was never moved to {guest.host}: name a host with --to")
    return home


def came_from(session: Session, guest: Guest) -> str | None:
    """The host that it was on before the one where it is."""
    arrived = (Job.guest == guest.name) & (Job.destination == guest.host) & (Job.state == JobState.DONE)
    return session.scalar(select(Job.source).where(arrived).order_by(Job.id.desc()).limit(1))


def inspect(guest: Guest, how: MigrationOptions | None = None, *, measured: bool = True) -> Inspection:
    """Ask its host what it is now, and what is against moving it; `how`: it is to be moved so.

    Not measured, which takes seconds, are what it writes and changes, known from the last time, and a copy's size.
    """
    known_host(guest.host)
    wanted = how or MigrationOptions()
    question = Inspect(
        qmp=guest.qmp, chain=wanted.chain, hooks=wanted.hooks, moves=how is not None and measured, looks=measured
    )
    try:
        inspection = ask(guest.host, question)
    except HostRefused as error:
        if guest.gone_at is None or error.checks:
            raise
        ended = f"{guest.name} does not run: its QEMU on {guest.host} has ended. {if_gone(guest.name)}"
        raise HostRefused(ended, host=guest.host) from error
    found = _found(inspection)
    if found != {column: getattr(guest, column) for column in found}:
        still_there = (Guest.name == guest.name) & (Guest.host == guest.host) & (Guest.qmp == guest.qmp)
        with transaction() as session:
            session.execute(update(Guest).where(still_there).values(found))
    return inspection


def if_gone(name: str) -> str:
    """What to do about a guest whose QEMU has ended."""
    return (
        f"Start it as it was started before, or with `drover guest start {name}` if it was moved there; or "
        f"`drover guest forget {name}`"
    )


def refuse_second_name(guest: Guest, inspection: Inspection) -> None:
    """Those adopted by an earlier version may have several names.

    Raises:
        PreconditionFailed: this one has.
    """
    with transaction() as session:
        _refuse_second_name(session, guest.name, guest.host, guest.qmp, inspection)
