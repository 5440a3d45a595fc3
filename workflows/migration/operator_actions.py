"""Resume a job that needs an operator: by the operator's decision who owns the guest, or by what both hosts answer."""

from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from models.base import now
from models.controller import wake
from models.database import transaction
from models.guest import Guest
from models.job import Job, JobState, Side, Step, StepState
from models.transitions import Actor, JobEvent, StepEvent
from workflows import not_there
from workflows.migration import claims, links, reconcile
from workflows.migration.jobs import existing
from workflows.migration.links import StepName
from workflows.migration.run_states import WENT_ON


def resolve(job_id: int, owner: Side, fenced: str | None, by: str = "command line") -> Job:
    """Resume a job by an operator's decision: who owns the guest, and which host is off for good.

    Raises:
        PreconditionFailed: the job does not wait, somebody else decided meanwhile, or the other host may still run
            the guest.
    """
    with transaction() as session:
        job = session.get(Job, job_id)
    if job is None:
        raise not_there.job(job_id)
    if job.state is not JobState.NEEDS_OPERATOR:
        raise PreconditionFailed(f"job {job_id} is {job.state}: only a job that needs an operator can be resolved")
    other = job.destination if owner is Side.SOURCE else job.source
    if fenced not in {None, other}:
        raise PreconditionFailed(f"if the {owner} owns the guest, the host to be fenced is {other}, not {fenced}")
    looked = reconcile.look(job)
    if fenced is None:
        _cannot_run_there(job, owner, other, looked)
    with transaction() as session:
        job = _unchanged_since(session, job)
        if owner is Side.SOURCE and fenced is None:
            _can_go_on_at_source(job, looked)
        _resolved(session, job, owner, fenced, by)
        if owner is Side.DESTINATION and looked.died_there:
            _started_cold(session, job)
        return job


def _unchanged_since(session: Session, looked_at: Job) -> Job:
    """The job locked: asking the hosts takes seconds, in which somebody else may have decided otherwise."""
    job = existing(session, looked_at.id)
    if job.epoch != looked_at.epoch:
        raise PreconditionFailed(
            f"job {job.id} went on while its hosts were asked, it is {job.state} now: see `drover job explain {job.id}`"
        )
    return job


def by_what_was_seen(job: Job, looked: reconcile.Look, by: str) -> bool:
    """Go on with a job that needs an operator if both hosts' answers leave no doubt who owns the guest."""
    sides = {reconcile.Owner.SOURCE: Side.SOURCE, reconcile.Owner.DESTINATION: Side.DESTINATION}
    if job.state is not JobState.NEEDS_OPERATOR or looked.verdict.owner not in sides or any(map(_unproven, job.steps)):
        return False
    resolve(job.id, sides[looked.verdict.owner], None, by=by)
    return True


def _cannot_run_there(job: Job, owner: Side, other: str, looked: reconcile.Look) -> None:
    """Without a fence the other host itself must report that the guest does not run on it."""
    seen = looked.seen[Side.DESTINATION if owner is Side.SOURCE else Side.SOURCE]
    if seen is None:
        raise PreconditionFailed(f"{other} cannot be asked: switch it off for good, then add `--fenced {other}`")
    if seen.runstate in WENT_ON or (owner is Side.SOURCE and seen.may_run and seen.alive):
        raise PreconditionFailed(
            f"{job.guest} runs, or may run, on {other}: stop that QEMU first, by "
            f"`systemctl stop drover-guest@{job.guest}` where it is in that unit"
        )


def _can_go_on_at_source(job: Job, looked: reconcile.Look) -> None:
    """The source has nothing to go on with once it has cleared away after the guest."""
    here = looked.seen[Side.SOURCE]
    cleared = any(step.name == StepName.CLEANUP and step.side is Side.SOURCE and step.started_at for step in job.steps)
    if cleared and not (here is not None and here.alive):
        raise PreconditionFailed(
            f"{job.source} has removed what it had of {job.guest}, its QEMU there has ended: only {job.destination} "
            f"can go on with it. `drover job explain {job.id}` says what is in the way. If {job.destination} is off "
            f"for good: `drover job resolve {job.id} --owner source --fenced {job.destination}`"
        )


def _resolved(session: Session, job: Job, owner: Side, fenced: str | None, by: str) -> None:
    job.fenced, job.cancel_requested = fenced, False
    off = f"; {fenced} is fenced" if fenced else ""
    why = f"the {owner} owns {job.guest}, decided by {by}{off}"
    if owner is Side.SOURCE:
        _back_to_source(session, job, why, by)
    else:
        _on_to_destination(session, job, why, by)
    wake(session)


def _back_to_source(session: Session, job: Job, why: str, by: str) -> None:
    """Roll back all that is not on the fenced host; what is left there is garbage once it comes back."""
    job.committed_at, job.kept_by_source = None, True
    guest = session.get_one(Guest, job.guest)
    if guest.host != job.source:  # it had arrived
        assert job.plan is not None  # it was begun
        guest.lives_on(job.source, job.plan.source.qmp)
    claims.begin_rollback(session, job, f"{job.error} ({why})", actor=Actor.OPERATOR, by=by)
    for step in job.remaining:
        if step.host == job.fenced:
            _skip(step, why)
    claims.end_if_nothing_is_left(session, job, actor=Actor.OPERATOR, by=by)


def _on_to_destination(session: Session, job: Job, why: str, by: str) -> None:
    """Only the end of the chain is left to do, on the host that is not fenced."""
    job.committed_at, job.kept_by_source = job.committed_at or now(session), False
    job.epoch += 1
    job.apply(session, JobEvent.GO_FORWARD, why, actor=Actor.OPERATOR, by=by)
    unproven = any(map(_unproven, job.steps))
    job.way_back_needed = job.way_back_needed or unproven
    for step in job.remaining:
        step.apply(StepEvent.REDO, Actor.OPERATOR)
        step.error = None
        without_proof = unproven and step.name == StepName.COMPARE_IMAGES
        if without_proof or step.name not in links.ONCE_COMMITTED or step.host == job.fenced:
            _skip(step, why)


def _unproven(step: Step) -> bool:
    """Its images differ, or could not be compared: a person goes on without that, what hosts answer does not."""
    return step.name == StepName.COMPARE_IMAGES and step.state is StepState.FAILED


def _started_cold(session: Session, job: Job) -> None:
    """The QEMU of the move is dead at the destination: there is nothing to resume, an operator starts the guest."""
    for step in job.remaining:
        if step.name == StepName.CUTOVER:
            _skip(step, "the guest's QEMU died after it was told to run")
    assert job.plan is not None  # it was begun
    session.get_one(Guest, job.guest).lives_on(job.destination, job.plan.destination.qmp)


def _skip(step: Step, why: str) -> None:
    step.apply(StepEvent.SKIP, Actor.OPERATOR)
    step.error = f"skipped: {why}"
