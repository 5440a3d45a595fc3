"""What is shown of plans of drains: documents, sentences, commands.

docs/reference/cli.md has the fields of documents: only add, never rename or drop one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from drover import words
from drover.views.queries import listed
from drover.views.sentences import Command
from drover.views.serializers import iso
from models import fleet
from models.base import Document
from models.database import transaction
from models.drain import PlanApproval, SubmittedPlan
from models.host import Host
from workflows import hosts, not_there
from workflows.drain import plans
from workflows.drain.plan_file import Move, PlanFile
from workflows.selectors import Selector


@dataclass(frozen=True)
class PlanShot:
    """A plan as it stands."""

    plan: PlanFile
    row: SubmittedPlan | None
    """None: it was not submitted."""
    approvals: tuple[PlanApproval, ...]
    wanted: int
    """Approvals of others than the one who applies it."""

    @property
    def host(self) -> str:
        """Which is emptied, or filled again."""
        return self.plan.drain_request().host

    @property
    def state(self) -> str | None:
        """`waiting`, `applied` or `withdrawn`; None: it was not submitted."""
        if self.row is None:
            return None
        if self.row.drain_id is not None:
            return "applied"
        return "waiting" if self.row.withdrawn_by is None else "withdrawn"

    @property
    def lacks_approval(self) -> bool:
        """Nobody can apply it yet."""
        return len(self.approvals) < self.wanted

    @property
    def approved_by(self) -> str:
        """Who, and when."""
        return ", ".join(f"{one.by} at {words.utc(one.at)}" for one in self.approvals) or "nobody"


def of(session: Session, plan: PlanFile, row: SubmittedPlan | None = None) -> PlanShot:
    """A plan, whether it was submitted or not."""
    if row is None:
        row = session.scalar(select(SubmittedPlan).where(SubmittedPlan.digest == plan.digest))
    approvals = tuple(plans.approvals(session, plan.digest))
    return PlanShot(plan, row, approvals, fleet.limits(session).plan_approvals)


def snapshot(number: int) -> PlanShot:
    """The plan that was submitted with this number.

    Raises:
        NotThere: there is none.
    """
    with transaction() as session:
        row = session.get(SubmittedPlan, number)
        if row is None:
            raise not_there.plan(number)
        return of(session, PlanFile.read(row.document), row)


def newest(
    session: Session,
    *,
    everything: bool,
    limit: int,
    selector: Selector | None = None,
    since: timedelta | None = None,
) -> list[PlanShot]:
    """Those that were submitted, the newest first; without `everything` only those that wait.

    A selector is about their hosts. `since`: all that were submitted so long ago at the most.
    """
    query = select(SubmittedPlan).order_by(SubmittedPlan.id.desc()).limit(limit)
    query = query.where(listed(SubmittedPlan.submitted_at, plans.WAITING, everything=everything, since=since))
    if selector is not None:
        host = SubmittedPlan.document["request"]["host"].as_string()
        query = query.where(host.in_(select(Host.name).where(hosts.selected(selector))))
    rows = session.scalars(query).all()
    return [of(session, PlanFile.read(row.document), row) for row in rows]


def followed_by(drain_id: int) -> PlanShot | None:
    """The plan that a drain follows; None if it follows none, or one that an earlier version applied."""
    with transaction() as session:
        row = session.scalar(select(SubmittedPlan).where(SubmittedPlan.drain_id == drain_id))
        return None if row is None else of(session, PlanFile.read(row.document), row)


def document(shot: PlanShot) -> Document:
    """The plan, who has approved it, what became of it, and what is no longer as it says."""
    return {
        **summary(shot),
        **shot.plan.public(),
        "digest": shot.plan.digest,
        "approvals": [{"by": one.by, "at": iso(one.at)} for one in shot.approvals],
        "differences": {} if shot.state == "applied" else plans.differences(shot.plan),
    }


def summary(shot: PlanShot) -> Document:
    """One plan among others."""
    row = shot.row
    return {
        "id": row and row.id,
        "state": shot.state,
        "kind": shot.plan.kind,
        "host": shot.host,
        "guests": len(shot.plan.going),
        "total_s": shot.plan.total_s,
        "approved": len(shot.approvals),
        "approvals_wanted": shot.wanted,
        "wait_reason": waits_for(shot),
        "submitted_by": row and row.submitted_by,
        "submitted_at": row and iso(row.submitted_at),
        "withdrawn_by": row and row.withdrawn_by,
        "applied_by": row and row.applied_by,
        "drain": row and row.drain_id,
    }


def headline(shot: PlanShot) -> str:
    """Which host, how many guests, how long."""
    going = words.count(len(shot.plan.going), "guest moves", "guests move")
    what = "empties" if shot.plan.kind == "drain" else "brings guests home to"
    number = "the plan" if shot.row is None else f"plan {shot.row.id}"
    return f"{number} {what} {shot.host}: {going} in about {words.span(shot.plan.total_s)}"


def standing(shot: PlanShot) -> str:
    """What has become of it, and what it waits for."""
    row = shot.row
    approved = f"approved by {shot.approved_by}"
    if row is None:
        return f"made by {shot.plan.made_by} at {shot.plan.made_at}; {approved}"
    if shot.state == "applied":
        return f"submitted by {row.submitted_by}, {approved}, applied by {row.applied_by}: it is drain {row.drain_id}"
    if shot.state == "withdrawn":
        return f"submitted by {row.submitted_by}, withdrawn by {row.withdrawn_by}"
    return f"submitted by {row.submitted_by} at {words.utc(row.submitted_at)}; {approved}; {waits_for(shot)}"


def waits_for(shot: PlanShot) -> str | None:
    """Of a plan that waits, with the command that changes it; None: it does not."""
    if shot.row is None or shot.state != "waiting":
        return None
    need = words.count(shot.wanted, "approval of another", "approvals of others")
    has = f"it needs {need} than the one who applies it, and has {len(shot.approvals)}"
    apply = f"`drover plan apply {shot.row.id}` begins it"
    if shot.lacks_approval:
        return f"{has}: `drover plan approve {shot.row.id}`"
    return f"{has if shot.wanted else 'it needs no approval'}: {apply}"


EFFECTS = {
    "approve": "you have read it, and have nothing against it",
    "apply": "the drain begins: its guests go where the plan says, or stay",
    "withdraw": "nobody approves or applies it any more",
}


def commands(shot: PlanShot) -> list[Command]:
    """What people may do about it now."""
    if shot.row is None or shot.state != "waiting":
        return []
    actions = ("approve", "withdraw") if shot.lacks_approval else ("apply", "withdraw")
    return [Command(f"drover plan {action} {shot.row.id}", EFFECTS[action]) for action in actions]


def remark(move: Move, differences: Mapping[str, str]) -> str | None:
    """What is special about a move."""
    return "is skipped" if move.skip else differences.get(move.guest)
