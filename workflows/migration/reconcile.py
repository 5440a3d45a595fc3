"""Where does the guest really run? Both hosts are asked, and a table decides.

Pure but for `look`: `verdict` takes what was seen and answers who owns the guest. Unreachable is not dead: when
a host gives no answer nothing is decided without an operator's statement that it is fenced.
"""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.orm import selectinload

from drover.errors import PreconditionFailed
from models.database import transaction
from models.host_rpc import Observation, Observe
from models.job import Job, Side, unfinished
from workflows.guests import refuse_unknown
from workflows.host_rpc import ask
from workflows.migration.run_states import WENT_ON
from workflows.presence import known_host


class Owner(StrEnum):
    """Who owns the guest."""

    SOURCE = "source"
    DESTINATION = "destination"
    NOBODY = "nobody"  # its QEMU is dead on both hosts, or dead where it lived
    BOTH = "both"  # it runs twice: the worst that can be
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """Who owns the guest, and the reason as a sentence."""

    owner: Owner
    why: str


def verdict(source: Observation | None, destination: Observation | None) -> Verdict:
    """Apply the table. No I/O."""
    if source is None or destination is None:
        silent = " and ".join(
            side for side, seen in (("the source", source), ("the destination", destination)) if seen is None
        )
        return Verdict(Owner.UNKNOWN, f"{silent} cannot be asked, and unreachable is not dead")
    at_source = source.runstate in WENT_ON
    at_destination = destination.runstate in WENT_ON or (destination.may_run and destination.alive)
    if at_source and at_destination:
        return Verdict(Owner.BOTH, "it runs on both hosts: stop the wrong one by hand at once")
    if at_destination:
        return Verdict(Owner.DESTINATION, "the destination was told to run it and its QEMU lives")
    if at_source:
        return Verdict(Owner.SOURCE, "it runs on the source, and the destination was never told to run it")
    return _standing_still(source, destination)


def _standing_still(source: Observation, destination: Observation) -> Verdict:
    """The guest runs nowhere."""
    loaded = destination.alive and destination.migration == "completed"
    if destination.may_run:
        return Verdict(Owner.NOBODY, "the destination was told to run it and its QEMU died there: start it cold there")
    if source.went_on and not source.told_to_run and not source.alive:  # an earlier worker does not report this
        return Verdict(Owner.NOBODY, "it went on at the source and its QEMU died there: start it cold there")
    if source.told_to_run or not source.alive:
        if loaded:
            return Verdict(Owner.DESTINATION, "the source handed it over and the destination holds the complete guest")
        why = "the source handed it over" if source.told_to_run else "its QEMU on the source is dead"
        return Verdict(Owner.NOBODY, f"{why} and the destination does not hold the complete guest")
    if source.runstate is None:
        return Verdict(Owner.UNKNOWN, "the source's QEMU lives but its monitor gives no answer")
    return Verdict(Owner.SOURCE, "it is paused on the source, which did not hand it over")


@dataclass(frozen=True)
class Look:
    """What was seen of one job's guest."""

    job_id: int
    guest: str
    seen: dict[Side, Observation | None]
    """None where the host could not be asked."""
    verdict: Verdict

    @property
    def died_there(self) -> bool:
        """The destination was told to run it, and its QEMU there is dead."""
        there = self.seen[Side.DESTINATION]
        return there is not None and there.may_run and not there.alive


def look(job: Job) -> Look:
    """Ask both hosts, but for one that is fenced: nothing runs there."""
    hosts = {Side.SOURCE: job.source, Side.DESTINATION: job.destination}
    seen = {side: _seen(job, host, side) for side, host in hosts.items()}
    return Look(job.id, job.guest, seen, verdict(seen[Side.SOURCE], seen[Side.DESTINATION]))


def _seen(job: Job, host: str, side: Side) -> Observation | None:
    if job.fenced == host:
        return Observation(alive=False)
    try:
        known_host(host)
        return ask(host, Observe(job_id=job.id, side=side))
    except PreconditionFailed:
        return None


def unfinished_jobs(guest: str | None) -> list[Job]:
    """The jobs that have not ended, with their steps, of one guest or of all.

    Raises:
        NotThere: there is no such guest.
    """
    with transaction() as session:
        jobs = session.query(Job).options(selectinload(Job.steps)).where(unfinished()).order_by(Job.id)
        if guest is not None:
            refuse_unknown(session, guest)
            jobs = jobs.where(Job.guest == guest)
        return list(jobs)
