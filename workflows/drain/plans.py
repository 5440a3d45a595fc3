"""What is done with plans of drains: they are submitted, approved, withdrawn and applied.

A submitted plan stands in the database, so that whoever approves it needs no file; which plan it is, its digest says.
Whoever approves is named by the name alone, however they came here: four eyes are those of two people.
"""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from drover import words
from drover.errors import PreconditionFailed
from models import decision_log, fleet
from models.base import now
from models.controller import wake
from models.database import transaction
from models.drain import Drain, DrainGuest, GuestState, PlanApproval, SubmittedPlan
from models.guest import Guest
from workflows import not_there, policies
from workflows.drain import commands, planner
from workflows.drain.plan_file import PlanFile, difference
from workflows.drain.planner import Forecast, known

WAITING = SubmittedPlan.drain_id.is_(None) & SubmittedPlan.withdrawn_by.is_(None)
"""Neither applied nor withdrawn."""


def submit(plan: PlanFile, by: str) -> int:
    """Put a plan where others approve it; returns its number. The same plan keeps its number.

    Raises:
        PreconditionFailed: a host or guest in it is unknown.
    """
    with transaction() as session:
        return _submit(session, plan, by).id


def approve(number: int, by: str) -> None:
    """Record that a user approves exactly this plan; an edited one needs another approval.

    Raises:
        PreconditionFailed: there is no such plan, it was withdrawn, or a host or guest in it is unknown.
    """
    with transaction() as session:
        row = _waiting(session, number)
        _check_names(session, PlanFile.read(row.document))
        if session.get(PlanApproval, (row.digest, by)) is None:
            session.add(PlanApproval(digest=row.digest, by=by, at=now(session)))
            decision_log.add(session, f"{by} approves the plan {number} of {_host(row)}, {row.digest[:12]}")


def withdraw(number: int, by: str) -> None:
    """Have nobody apply a plan, nor approve it; submitted again it needs other approvals.

    Raises:
        PreconditionFailed: there is no such plan, or it was applied.
    """
    with transaction() as session:
        row = existing(session, number)
        if row.drain_id is not None:
            raise PreconditionFailed(
                f"plan {number} was applied, it is drain {row.drain_id}: `drover drain cancel {row.drain_id}` ends that"
            )
        if row.withdrawn_by is None:
            row.withdrawn_by = by
            session.execute(delete(PlanApproval).where(PlanApproval.digest == row.digest))
            decision_log.add(session, f"{by} withdraws the plan {number} of {_host(row)}, {row.digest[:12]}")


def apply(plan: PlanFile, by: str, token: int | None = None) -> Drain:
    """Queue a drain that follows a plan. Applied again, the same plan answers its first drain.

    Raises:
        PreconditionFailed: it is not approved as the fleet wants it, or a host or guest in it is unknown.
    """
    with transaction() as session:
        return _apply(session, _submit(session, plan, by), by, token)


def apply_submitted(number: int, by: str, token: int | None = None) -> Drain:
    """The same with one that was submitted.

    Raises:
        PreconditionFailed: likewise, or there is no such plan, or it was withdrawn.
    """
    with transaction() as session:
        row = existing(session, number)
        return _apply(session, row if row.drain_id is not None else _waiting(session, number), by, token)


def try_out(plan: PlanFile, by: str) -> Forecast:
    """What it would do now: every guest and target in it is asked. Changes nothing.

    Raises:
        PreconditionFailed: see `apply`.
    """
    request = plan.drain_request()
    with transaction() as session:
        check(session, plan, by)
    return planner.forecast(request, targets=plan.targets(), tried=True)


def check(session: Session, plan: PlanFile, by: str) -> None:
    """Refuse a plan that may not be applied.

    Raises:
        PreconditionFailed: see `apply`.
    """
    _check_names(session, plan)
    wanted = fleet.limits(session).plan_approvals
    given = {one.by for one in approvals(session, plan.digest)}
    others = len(given - {by})
    if others < wanted:
        need = words.count(wanted, "approval of another", "approvals of others")
        submit = "`drover plan submit FILE` puts it into the inbox, where another user approves it"
        advice = f"that of {by} lets another user apply it" if len(given) >= wanted else submit
        raise PreconditionFailed(
            f"the plan {plan.digest[:12]} needs {need} than {by}, who applies it, and has {others}: {advice}; "
            "an edited plan is another one"
        )


def differences(plan: PlanFile) -> dict[str, str]:
    """{guest: what is no longer as the plan says}, by what is on record of them."""
    asked, found = plan.drain_request().options, dict[str, str | None]()
    with transaction() as session:
        rules = policies.all_of(session)
        for move in plan.going:
            guest = session.get(Guest, move.guest)
            how = asked if guest is None else policies.decided(guest, asked, rules)
            found[move.guest] = difference(guest, move.planned, how)
    return {guest: why for guest, why in found.items() if why is not None}


def approvals(session: Session, digest: str) -> Sequence[PlanApproval]:
    """Those of exactly this plan."""
    mine = select(PlanApproval).where(PlanApproval.digest == digest)
    return session.scalars(mine.order_by(PlanApproval.at)).all()


def existing(session: Session, number: int) -> SubmittedPlan:
    """The submitted plan with its row locked.

    Raises:
        NotThere: there is none.
    """
    row = session.get(SubmittedPlan, number, with_for_update=True)
    if row is None:
        raise not_there.plan(number)
    return row


def _waiting(session: Session, number: int) -> SubmittedPlan:
    row = existing(session, number)
    if row.withdrawn_by is not None:
        raise PreconditionFailed(
            f"plan {number} was withdrawn by {row.withdrawn_by}: `drover plan submit FILE` puts it there again"
        )
    if row.drain_id is not None:
        raise PreconditionFailed(f"plan {number} was applied by {row.applied_by}: it is drain {row.drain_id}")
    return row


def _submit(session: Session, plan: PlanFile, by: str) -> SubmittedPlan:
    _check_names(session, plan)
    said = {"digest": plan.digest, "document": plan.json_object(), "submitted_by": by, "submitted_at": now(session)}
    made = insert(SubmittedPlan).values(said).on_conflict_do_nothing(index_elements=["digest"])
    new = session.scalar(made.returning(SubmittedPlan.id))
    query = select(SubmittedPlan).where(SubmittedPlan.digest == plan.digest).with_for_update()
    row = session.scalars(query).one()
    if row.withdrawn_by is not None:
        row.withdrawn_by, row.submitted_by, row.submitted_at = None, by, now(session)
    if row.drain_id is None:  # it was applied from its file by an earlier version
        row.drain_id = session.scalar(select(Drain.id).where(Drain.idempotency_key == _key(plan)))
    if new is not None:
        decision_log.add(session, f"{by} submits the plan {new} of {_host(row)}, {plan.digest[:12]}")
    return row


def _apply(session: Session, row: SubmittedPlan, by: str, token: int | None) -> Drain:
    if row.drain_id is not None:
        return session.get_one(Drain, row.drain_id)
    plan = PlanFile.read(row.document)
    check(session, plan, by)
    drain = commands.queue(session, plan.drain_request(), key=_key(plan), by=by, token=token)
    drain.follows_plan = True
    drain.guests = _rows(plan)
    row.drain_id, row.applied_by = drain.id, by
    decision_log.add(session, f"{by} applies the plan {row.id}, {row.digest[:12]}", drain=drain.id)
    wake(session)
    return drain


def _key(plan: PlanFile) -> str:
    return f"plan-{plan.digest[:32]}"


def _host(row: SubmittedPlan) -> str:
    return str(row.document["request"]["host"])


def _check_names(session: Session, plan: PlanFile) -> None:
    known(session, [plan.drain_request().host, *(move.to for move in plan.moves)])
    there = set(session.scalars(select(Guest.name)))
    if missing := sorted({move.guest for move in plan.going} - there):
        raise PreconditionFailed(f"there is no guest {missing[0]!r} (any more): take it out of the plan, or `skip` it")


def _rows(plan: PlanFile) -> list[DrainGuest]:
    rows = [
        DrainGuest(
            guest=move.guest,
            source=move.source,
            destination=move.to,
            estimate_s=move.estimate_s,
            planned=None if move.skip else move.planned,
            state=GuestState.SKIPPED if move.skip else GuestState.WAITING,
            reason="the plan says so" if move.skip else None,
        )
        for move in plan.moves
    ]
    host = plan.drain_request().host
    rows += [
        DrainGuest(guest=one.guest, source=host, state=GuestState.SKIPPED, reason=f"left by the plan: {one.why}")
        for one in plan.left
    ]
    for turn, row in enumerate(rows, start=1):
        row.position = turn
    return rows
