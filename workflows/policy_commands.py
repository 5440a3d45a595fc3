"""Setting and removing policies of moves; `policies` has what they decide."""

from collections.abc import Mapping

from pydantic import ValidationError
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from drover import names, words
from drover.errors import PreconditionFailed
from models import decision_log
from models.contracts import first_fault
from models.database import transaction
from models.documents import DECIDED_BY_POLICIES, Hook, MigrationOptions, Notice
from models.move_policy import MovePolicy
from workflows import not_there, policies, receivers
from workflows.budgets import enough
from workflows.roll import hooks
from workflows.selectors import Selector


def define(name: str, selector: str | None, priority: int, values: Mapping[str, object]) -> MovePolicy:
    """Set the policy of this name: these fields of `MigrationOptions` are all that it decides.

    Moves that are submitted from now on follow it; those under way keep what they have.

    Raises:
        PreconditionFailed: the name, selector or a value cannot be that, or another policy has this priority.
    """
    names.check(name, "a policy")
    Selector.read(selector)
    if not values.keys() & DECIDED_BY_POLICIES or values.keys() - DECIDED_BY_POLICIES:
        raise PreconditionFailed(
            f"a policy decides one or more of {', '.join(map(words.option, sorted(DECIDED_BY_POLICIES)))}"
        )
    try:
        options = MigrationOptions().asking(**values)
    except ValidationError as error:
        raise PreconditionFailed(f"the policy {name} cannot be that: {first_fault(error)}") from error
    enough(options.bandwidth_bytes_per_s)
    enough(options.verify_bytes_per_s)
    policies.check_pause("max_downtime_ms", options.max_downtime_ms)
    policies.check_pause("most_downtime_ms", options.most_downtime_ms)
    policies.check(options)
    _check_notice(options.notice)
    made = MovePolicy(name=name, selector=selector or None, priority=priority, options=options)
    try:
        with transaction() as session:
            _refuse_equal_priority(session, name, priority)
            merged = session.merge(made)
            session.flush()
            session.refresh(merged)
            decision_log.add(session, f"an operator set the policy {name}")
    except IntegrityError as error:  # another came first
        raise PreconditionFailed(f"another policy got priority {priority} at the same moment: try again") from error
    return merged


def _check_notice(notice: Notice | None) -> None:
    if notice is not None and notice.url is not None:
        receivers.check(notice.url)
    elif notice is not None:
        hooks.check_name(Hook(argv=notice.program or ("",)))


def _refuse_equal_priority(session: Session, name: str, priority: int) -> None:
    """A guest may get labels of both at any time: which of them counts is to be clear before that."""
    same = select(MovePolicy.name).where(MovePolicy.priority == priority, MovePolicy.name != name)
    if (other := session.scalar(same)) is not None:
        raise PreconditionFailed(
            f"the policy {other} has priority {priority}, and nobody could tell which of the two counts for a guest "
            "that both name: give this one another `--priority`, the higher one counts"
        )


def remove(name: str) -> None:
    """Moves that are submitted from now on do not follow it.

    Raises:
        NotThere: there is none.
    """
    with transaction() as session:
        if not session.execute(delete(MovePolicy).where(MovePolicy.name == name).returning(MovePolicy.name)).all():
            raise not_there.policy(session, name)
        decision_log.add(session, f"an operator removed the policy {name}")
