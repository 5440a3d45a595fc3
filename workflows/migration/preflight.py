"""What must be true before a job exists: both hosts are asked, and the answers are the job's plan. Changes nothing."""

from sqlalchemy import select

from drover.errors import HostRefused, PreconditionFailed
from models.base import now
from models.database import transaction
from models.documents import MigrationOptions
from models.guest import Guest
from models.host_rpc import PlanDestination
from models.job import Job, unfinished
from models.plan import Inspection, Plan
from workflows import estimate, host_keys, schedule
from workflows.capacity import Size
from workflows.guests import inspect, refuse_second_name
from workflows.host_rpc import ask, known_host
from workflows.hosts import takes_guests
from workflows.submit_options import SubmitOptions


def fits_its_window(guest: str, terms: SubmitOptions) -> None:
    """Refuse what could never begin.

    Raises:
        PreconditionFailed: no window is long enough.
    """
    if terms.window is None:
        return
    with transaction() as session:
        size, speed, at = Size.of(session.get_one(Guest, guest)), estimate.speed(session), now(session)
    wait = schedule.obstacle(at, speed.needs_s(size, terms.seed), window=terms.window)
    if wait is not None and wait.for_good:
        raise PreconditionFailed(f"{guest} cannot be moved: {wait.why}")


def plan(guest: Guest, destination: str, options: MigrationOptions | None = None) -> Plan:
    """Ask both hosts.

    Raises:
        PreconditionFailed: the guest cannot be moved there.
    """
    if guest.host == destination:
        raise PreconditionFailed(f"{guest.name} is on {destination} already: name another host")
    takes_guests(known_host(destination))
    stays = options is not None and options.launcher_stays
    return planned_at(destination, guest, movable(guest, launcher_stays=stays), options)


def movable(guest: Guest, *, launcher_stays: bool = False) -> Inspection:
    """The inspection of a guest, if it can be moved now.

    Raises:
        PreconditionFailed: it cannot, wherever to.
    """
    _no_other_job(guest.name)
    inspection = inspect(guest)
    refuse_second_name(guest, inspection)
    if found := refusals(guest.name, inspection, launcher_stays=launcher_stays):
        raise HostRefused(f"{guest.name} cannot be moved now: " + "; ".join(found), host=guest.host)
    return inspection


def refusals(guest: str, inspection: Inspection, *, launcher_stays: bool = False) -> list[str]:
    """Why a guest cannot be moved now, wherever to. What would start it a second time at its source may be accepted."""
    launcher = inspection.launcher
    refused = launcher is not None and launcher.stays is not None and not launcher_stays
    return [*inspection.refusals, *([launcher.refusal(guest)] if launcher is not None and refused else [])]


def planned_at(destination: str, guest: Guest, inspection: Inspection, options: MigrationOptions | None = None) -> Plan:
    """The job's plan for one destination, by what was found out about the guest.

    Raises:
        PreconditionFailed: it could not run there.
    """
    host, keys = known_host(guest.host), _keys(guest.host, destination)
    question = PlanDestination(
        guest=guest.name,
        source_root=host.guest_root,
        source_machine=host.facts.machine,
        source=inspection,
        thin_factor=options.thin_factor if options else None,
    )
    answer = ask(destination, question)
    return Plan(source=inspection, destination=answer, source_key=keys[guest.host], destination_key=keys[destination])


def _keys(source: str, destination: str) -> dict[str, str]:
    """By which each of the two knows the other; both must protect their streams in the same way."""
    with transaction() as session:
        return host_keys.of_both(session, source, destination)


def _no_other_job(guest: str) -> None:
    with transaction() as session:
        job = session.scalar(select(Job).where(unfinished(), Job.guest == guest))
    if job is not None:
        raise PreconditionFailed(f"{guest} is being moved already by job {job.id}, which is {job.state}")
