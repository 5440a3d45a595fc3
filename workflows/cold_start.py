"""Starting a guest cold where it lives, under the rule that at most one host may run it; and stopping it."""

import time

from sqlalchemy import select

from drover.errors import PreconditionFailed, Unavailable
from models import decision_log
from models.database import transaction
from models.guest import Guest
from models.host_rpc import LookForGuest, Sighting, StartGuest, StopGuest
from models.job import Job
from workflows.guests import known_guest, refuse_in_mid_job
from workflows.host_rpc import ask
from workflows.presence import known_host

LOOK_S = 1.0


def start(name: str, *, fenced: tuple[str, ...] = ()) -> Guest:
    """Start a guest that does not run, on the host where it lives.

    Args:
        name: the guest.
        fenced: hosts that are switched off, as an operator states: they are not asked.

    Raises:
        PreconditionFailed: a job of it has not ended, it runs somewhere, a host that it was ever on cannot say that it
            does not run there, a host may not be fenced, or its host does not start it.
    """
    guest = known_guest(name)
    with transaction() as session:
        refuse_in_mid_job(session, name)
        jobs = session.execute(select(Job.source, Job.destination).where(Job.guest == name)).all()
    hosts = {guest.host, *(host for job in jobs for host in job)}
    _may_be_fenced(guest, hosts - {guest.host}, fenced)
    for host in sorted(hosts - set(fenced)):
        _runs_not(guest, host, fenced)
    with transaction() as session:
        locked = session.get(Guest, name, with_for_update=True, populate_existing=True)
        refuse_in_mid_job(session, name)  # none can be submitted until it has started
        if locked is None or locked.host != guest.host:
            raise PreconditionFailed(f"{name} was forgotten or adopted anew meanwhile: try again")
        seen = _started(locked)
        locked.process, locked.launcher, locked.gone_at = seen.process, seen.launcher, None
        locked.qmp = seen.qmp or locked.qmp
        decision_log.add(session, f"an operator had the guest started on {locked.host}", guest=name)
    return locked


def _started(guest: Guest) -> Sighting:
    try:
        return ask(guest.host, _about(guest, StartGuest))
    except Unavailable as error:
        perhaps = f"{guest.name} may have been started all the same, `drover guest show {guest.name}` tells"
        raise Unavailable(f"{perhaps}: {error}") from error


def _may_be_fenced(guest: Guest, others: set[str], fenced: tuple[str, ...]) -> None:
    if guest.host in fenced:
        raise PreconditionFailed(
            f"{guest.name} lives on {guest.host} and can be started nowhere else. If that host is off for good, start "
            f"it by hand on another one, from a copy of its images (`drover image list --guest {guest.name}` names "
            f"older ones), then `drover guest adopt {guest.name} --host HOST --qmp SOCKET`"
        )
    if never := sorted(set(fenced) - others):
        were = f"it was on {', '.join(sorted(others))}" if others else f"it was nowhere but on {guest.host}"
        raise PreconditionFailed(f"--fenced {never[0]}: {guest.name} was never on that host, {were}")


def _runs_not(guest: Guest, host: str, fenced: tuple[str, ...]) -> None:
    try:
        seen = _look(guest, host)
    except Unavailable as error:
        if host == guest.host:
            raise Unavailable(f"{guest.name} lives on {host}, which has to start it: {error}") from error
        said = "".join(f" --fenced {one}" for one in (*fenced, host))
        raise PreconditionFailed(
            f"nobody knows whether {guest.name} runs on {host}, and it may run once only: {error}. If that host is "
            f"switched off for good, `drover guest start {guest.name}{said}`"
        ) from error
    if seen.pid is not None:
        raise PreconditionFailed(f"{guest.name} runs already: on {host}, pid {seen.pid}; nothing was started")


def _look(guest: Guest, host: str) -> Sighting:
    known_host(host)
    return ask(host, _about(guest, LookForGuest))


def _about(guest: Guest, kind: type[LookForGuest]) -> LookForGuest:
    return kind(guest=guest.name, uuid=guest.uuid, process=guest.process)


def stop(name: str, *, timeout_s: float) -> bool:
    """Ask a guest to power off, and wait; false if it still runs after that time.

    Raises:
        PreconditionFailed: a job of it has not ended, it does not run, or was not launched by Drover.
    """
    guest = known_guest(name)
    with transaction() as session:
        refuse_in_mid_job(session, name)
    known_host(guest.host)
    ask(guest.host, _about(guest, StopGuest))
    with transaction() as session:
        decision_log.add(session, f"an operator had the guest stopped on {guest.host}", guest=name)
    deadline = time.monotonic() + timeout_s
    while _look(guest, guest.host).pid is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True
