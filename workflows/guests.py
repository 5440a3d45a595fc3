"""The guests that Drover was told of."""

from sqlalchemy import Select, select, update

from models.base import Document
from models.database import transaction
from models.errors import PreconditionFailed
from models.guest import Guest
from models.job import Job, JobState
from workflows.questions import ask, known_host


def adopt(name: str, host: str, qmp: str) -> tuple[Guest, Document]:
    """Learn of a running QEMU; answers the guest and what its host found out.

    Adopting a guest whose QEMU was started anew elsewhere just updates where it is.

    Raises:
        PreconditionFailed: the host is unknown, or nobody answers at that socket.
    """
    known_host(host)
    inspection = ask(host, "inspect", qmp=qmp)
    with transaction() as session:
        guest = session.get(Guest, name) or Guest(name=name)
        guest.host, guest.qmp = host, qmp
        for column, value in _sizes(inspection).items():
            setattr(guest, column, value)
        session.add(guest)
    return guest, inspection


def _sizes(inspection: Document) -> dict[str, int]:
    """What a guest takes of its host, by the columns of its record."""
    disk_bytes = sum(disk["virtual_size_bytes"] for disk in inspection["disks"])
    return {"cpus": inspection["cpus"], "memory_bytes": inspection["memory_bytes"], "disk_bytes": disk_bytes}


def forget(name: str) -> Guest:
    """No longer know a guest, for instance one that was powered off; the guest itself is not touched.

    Raises:
        PreconditionFailed: there is none, or a job that has not ended is about it.
    """
    guest = known_guest(name)
    with transaction() as session:
        job = session.scalar(unfinished_jobs().where(Job.guest == name))
        if job is not None:
            raise PreconditionFailed(f"job {job.id} of {name} is {job.state}: wait for its end, or cancel it first")
        session.delete(guest)
    return guest


def describe(name: str, *, priority: int | None, together: str | None, apart: str | None) -> Guest:
    """Say what drains must know of a guest; None leaves a word as it is, an empty group takes the guest out of it.

    Raises:
        PreconditionFailed: there is no such guest.
    """
    known_guest(name)
    with transaction() as session:
        guest = session.get_one(Guest, name)
        guest.priority = guest.priority if priority is None else priority
        guest.together = guest.together if together is None else together or None
        guest.apart = guest.apart if apart is None else apart or None
    return guest


def unfinished_jobs() -> Select[Job]:
    """Those that may still move their guest, or wait for an operator."""
    return select(Job).where(Job.state.not_in([JobState.DONE, JobState.UNDONE]))


def known_guest(name: str) -> Guest:
    """The guest with this name.

    Raises:
        PreconditionFailed: there is none.
    """
    with transaction() as session:
        guest = session.get(Guest, name)
    if guest is None:
        raise PreconditionFailed(
            f"there is no guest {name!r}: see `drover guest list`, or adopt it with "
            f"`drover guest adopt {name} --host HOST --qmp SOCKET`"
        )
    return guest


def inspect(guest: Guest) -> Document:
    """What its host says of it now."""
    known_host(guest.host)
    inspection = ask(guest.host, "inspect", qmp=guest.qmp)
    found = _sizes(inspection)
    if found != {column: getattr(guest, column) for column in found}:
        with transaction() as session:
            session.execute(update(Guest).where(Guest.name == guest.name).values(found))
    return inspection
