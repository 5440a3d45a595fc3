"""What must be true before a job exists: both hosts are asked, and the answers are the job's plan. Changes nothing."""

from dataclasses import replace
from typing import Any

from drover.errors import HostRefused, PreconditionFailed
from models.base import now
from models.database import transaction
from models.documents import Estimate, MigrationOptions
from models.guest import Guest
from models.host_rpc import PlanDestination
from models.plan import Inspection, Plan
from models.preflight import Check, Verdict, refusals
from workflows import estimate, guests, host_keys, layouts, schedule
from workflows.capacity import Size
from workflows.estimate import Way
from workflows.host_rpc import ask
from workflows.hosts import takes_guests
from workflows.presence import known_host
from workflows.submit_options import SubmitOptions

LAUNCHER_STAYS = "launcher-stays"
"""The check that `MigrationOptions.launcher_stays` accepts."""
SNAPSHOTS = "internal-snapshots"
"""Likewise `drop_snapshots`."""
KNOWN_BUG = "known-bug"
"""The destination tells those of both hosts."""


def estimated(
    guest: Guest, destination: str, options: MigrationOptions, terms: SubmitOptions, planned: Plan
) -> Estimate:
    """How long the move takes if it begins now, beside what is under way.

    Raises:
        PreconditionFailed: no window is long enough for it.
    """
    with transaction() as session:
        newest = session.get(Guest, guest.name) or guest  # its hosts were asked meanwhile, or somebody has forgotten it
        size, speed, at = Size.of(newest), estimate.speed(session), now(session)
        among_others = estimate.among(session, speed)
    copied = sum(filter(None, (disk.allocated_bytes for disk in planned.destination.disks)))
    size = replace(size, allocated_bytes=max(size.written_bytes, copied))
    if (changed := planned.destination.way_back_bytes) is not None:
        size = replace(size, disk_bytes=changed, allocated_bytes=changed)
    way = Way.of(newest, destination, options)
    wait = schedule.obstacle(at, speed.of(way).needs_s(size, seeded=terms.seed), window=terms.window)
    if wait is not None and wait.for_good:
        raise PreconditionFailed(f"{guest.name} cannot be moved: {wait.why}")
    return among_others.of(way).estimate(size)


def plan(guest: Guest, destination: str, options: MigrationOptions | None = None, *, tried: bool = False) -> Plan:
    """Ask both hosts; if it is to be tried, the destination also starts the guest's QEMU for a moment.

    A guest that goes back to where it came from may be unwell where it is: nothing is measured first.

    Raises:
        PreconditionFailed: the guest cannot be moved there.
    """
    if guest.host == destination:
        raise PreconditionFailed(f"{guest.name} is on {destination} already: name another host")
    takes_guests(known_host(destination))
    with transaction() as session:
        goes_home = guests.came_from(session, guest) == destination
    inspection = _inspected(guest, options, measured=tried or not goes_home)
    try:
        _refuse_immovable(guest, inspection, options)
    except HostRefused as refused:
        raise _with_those_of(destination, guest, inspection, refused, options) from None
    return planned_at(destination, guest, inspection, options, tried=tried)


def _with_those_of(
    destination: str, guest: Guest, inspection: Inspection, refused: HostRefused, options: MigrationOptions | None
) -> HostRefused:
    """What the destination has against it besides, so that all is known at once."""
    try:
        planned_at(destination, guest, inspection, options)
    except HostRefused as there:
        known = {check.name for check in refused.checks}
        more = [check for check in there.checks if check.name not in known]
        if more and refused.checks and not there.failed:
            besides = f"{destination} cannot take {guest.name}: " + "; ".join(refusals(more))
            return HostRefused(f"{refused}; {besides}", host=guest.host, checks=(*refused.checks, *more))
    except PreconditionFailed:
        pass  # it gives no answer: what is known already is reason enough
    return refused


def movable(guest: Guest, options: MigrationOptions | None = None) -> Inspection:
    """The inspection of a guest, if it can be moved now.

    Raises:
        PreconditionFailed: it cannot, wherever to.
    """
    inspection = _inspected(guest, options)
    _refuse_immovable(guest, inspection, options)
    return inspection


def _inspected(guest: Guest, options: MigrationOptions | None, *, measured: bool = True) -> Inspection:
    with transaction() as session:
        guests.refuse_in_mid_job(session, guest.name)
    inspection = guests.inspect(guest, options or MigrationOptions(), measured=measured)
    guests.refuse_second_name(guest, inspection)
    if options is not None and options.verify:
        _refuse_unreadable(guest, inspection)
    return inspection


def _refuse_immovable(guest: Guest, inspection: Inspection, options: MigrationOptions | None) -> None:
    found = [check for check in inspection.checks if check.verdict is Verdict.REFUSE]
    accepted = {check.sentence for check in _accepted(inspection, options)}
    if against := [sentence for sentence in inspection.refusals if sentence not in accepted]:
        why = f"{guest.name} cannot be moved now: " + "; ".join(against)
        raise HostRefused(why, host=guest.host, checks=[check for check in found if check.sentence not in accepted])


def _accepted(inspection: Inspection, options: MigrationOptions | None) -> list[Check]:
    """What would be against the move if it were not wanted so."""
    on_devices = any(disk.block_device for disk in inspection.disks)  # nothing keeps others out of one
    names = {
        LAUNCHER_STAYS: options is not None and options.launcher_stays and not on_devices,
        SNAPSHOTS: options is not None and options.drop_snapshots,
    }
    return [check for check in inspection.checks if check.verdict is Verdict.REFUSE and names.get(check.name)]


def warnings(planned: Plan, options: MigrationOptions | None = None) -> list[str]:
    """What the operator should know of the move, a sentence each."""
    told = [check for check in planned.source.checks if check.verdict is Verdict.WARN and check.name != KNOWN_BUG]
    dropped = [check.seen for check in _accepted(planned.source, options) if check.name == SNAPSHOTS]
    return list(dict.fromkeys([*dropped, *(check.sentence for check in told), *planned.destination.warnings]))


def _refuse_unreadable(guest: Guest, inspection: Inspection) -> None:
    """A comparison reads the source's images with all that they lie on, and opens nothing but files of that host."""
    for below in (level.path for disk in inspection.disks for level in disk.chain):
        if not below.startswith("/"):
            why = f"it lies on {below}, which is no file of {guest.host}, so its images cannot be compared"
            raise PreconditionFailed(f"{guest.name} cannot be moved now: {why}; move it without `--verify`")


def planned_at(
    destination: str,
    guest: Guest,
    inspection: Inspection,
    options: MigrationOptions | None = None,
    *,
    tried: bool = False,
) -> Plan:
    """The job's plan for one destination, by what was found out about the guest.

    Raises:
        PreconditionFailed: it could not run there.
    """
    host, keys = known_host(guest.host), _keys(guest.host, destination)
    wanted = options or MigrationOptions()
    layout = layouts.effective(guest.host, destination, inspection, wanted.layout)
    question = PlanDestination(
        guest=guest.name,
        source_root=host.guest_root,
        source_machine=host.facts.machine,
        source=inspection,
        thin_factor=wanted.thin_factor,
        chain=wanted.chain,
        layout=layout,
        hooks=wanted.hooks,
        check=wanted.check,
        tried=tried,
    )
    answer = ask(destination, question)
    if len(answer.files) < len(inspection.files):
        raise PreconditionFailed(
            f"the worker of {destination} is too old to take the files of {guest.name}: upgrade it"
        )
    return Plan(
        source=inspection,
        destination=answer,
        layout=layout,
        **keys,
    )


def _keys(source: str, destination: str) -> dict[str, Any]:
    """By which each of the two knows the other; both must protect their streams in the same way."""
    with transaction() as session:
        return host_keys.of_plan(session, source, destination)
