"""What both hosts of unfinished jobs have answered, and what followed of it: the document of `drover reconcile`."""

from drover.errors import PreconditionFailed
from drover.views.serializers import public
from models.base import Document
from models.host_rpc import Observation
from models.job import Job, Side
from workflows.migration import operator_actions, reconcile
from workflows.migration.reconcile import Look


def asked(guest: str | None, *, dry_run: bool, by: str) -> Document:
    """Ask them; unless it is a dry run, jobs go on whose owner is beyond doubt.

    Raises:
        PreconditionFailed: there is no such guest.
    """
    looks = [(job, reconcile.look(job)) for job in reconcile.unfinished_jobs(guest)]
    return {"jobs": [_document(job, look, dry_run=dry_run, by=by) for job, look in looks]}


def _document(job: Job, look: Look, *, dry_run: bool, by: str) -> Document:
    resolved, refused = False, None
    try:
        resolved = not dry_run and operator_actions.by_what_was_seen(job, look, by)
    except PreconditionFailed as error:  # somebody else has decided meanwhile: the other jobs are not affected
        refused = str(error)
    return {
        "job": look.job_id,
        "guest": look.guest,
        "owner": look.verdict.owner,
        "why": look.verdict.why,
        "source": _observation(look, Side.SOURCE, {"told_to_run", "went_on"}),
        "destination": _observation(look, Side.DESTINATION, {"may_run"}),
        "resolved": resolved,
        "refused": refused,
        "state": job.state.value,
        "error": public(job.error),
    }


def _observation(look: Look, side: Side, of_this_side: set[str]) -> Document | None:
    seen: Observation | None = look.seen[side]
    return None if seen is None else seen.model_dump(include={"alive", "runstate", "migration"} | of_this_side)
